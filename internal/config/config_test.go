package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/internal/config"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "grove.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsAreValid(t *testing.T) {
	for name, c := range map[string]config.Config{"dev": config.Defaults(), "production": config.ProductionDefaults()} {
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLoadOverDefaults(t *testing.T) {
	t.Setenv("GROVE_TEST_DB_PASSWORD", "s3cret")
	c, err := config.Load(write(t, "listen: 127.0.0.1:1\ndatabase:\n  url: postgres://grove:${GROVE_TEST_DB_PASSWORD}@127.0.0.1/grove\n"), config.Defaults())
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:1" || c.Database.URL != "postgres://grove:s3cret@127.0.0.1/grove" || c.API.PageSize != 20 {
		t.Errorf("loaded %+v", c)
	}
}

func TestMistakesAreListedTogether(t *testing.T) {
	_, err := config.Load(write(t, "listen: nowhere\nlog: {level: loud, format: text}\ncloud: {local: {network: 10.0.0.0/8}}\n"), config.Defaults())
	if err == nil {
		t.Fatal("accepted")
	}
	for _, option := range []string{"listen", "log.level", "cloud.local.network"} {
		if !strings.Contains(err.Error(), option+":") {
			t.Errorf("%q is not named in: %v", option, err)
		}
	}
}

func TestUnknownOptionIsRefused(t *testing.T) {
	_, err := config.Load(write(t, "lisen: 127.0.0.1:1\n"), config.Defaults())
	if err == nil || !strings.Contains(err.Error(), "lisen") {
		t.Errorf("got %v", err)
	}
}

func TestMissingEnvironmentIsRefused(t *testing.T) {
	_, err := config.Load(write(t, "region: ${GROVE_TEST_NOT_SET}\n"), config.Defaults())
	if err == nil || !strings.Contains(err.Error(), "GROVE_TEST_NOT_SET") {
		t.Errorf("got %v", err)
	}
}

func TestEffectiveMasksSecrets(t *testing.T) {
	c := config.Defaults()
	c.Database.URL, c.Keystone.Password = "postgres://grove:s3cret@127.0.0.1/grove", "s3cret"
	text, err := config.Effective(c)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "s3cret") {
		t.Errorf("the password is shown:\n%s", text)
	}
}

// TestEffectiveMasksEveryForm: a database takes its password in several places of a URL.
func TestEffectiveMasksEveryForm(t *testing.T) {
	for _, url := range []string{"postgres://h/grove?sslmode=disable&password=s3cret", "postgres://u:s3cret@h/grove?sslpassword=s3cret", "postgres:s3cret", "\x7f s3cret"} {
		c := config.Defaults()
		c.Database.URL = url
		text, err := config.Effective(c)
		if err != nil || strings.Contains(string(text), "s3cret") {
			t.Errorf("%s is shown (%v):\n%s", url, err, text)
		}
		if strings.Contains(url, "sslmode") && !strings.Contains(string(text), "sslmode=disable") {
			t.Errorf("more than the secret is hidden:\n%s", text)
		}
	}
}

func TestNegativeTimesAreRefused(t *testing.T) {
	c := config.Defaults()
	c.Retention.Events, c.API.ShutdownWait = -1, -1
	err := c.Validate()
	if err == nil || !strings.Contains(err.Error(), "retention.events") || !strings.Contains(err.Error(), "api.shutdown_wait") {
		t.Errorf("got %v", err)
	}
}

// TestPageMatchesCode compares docs/configuration.md with the struct: every option is on the page and every option on
// the page exists.
func TestPageMatchesCode(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, m[1])
	}
	options := optionsOf(reflect.TypeFor[config.Config](), "")
	for _, o := range options {
		if !slices.Contains(documented, o) {
			t.Errorf("option %s is not in docs/configuration.md", o)
		}
	}
	for _, d := range documented {
		if !slices.Contains(options, d) {
			t.Errorf("docs/configuration.md describes %s, which does not exist", d)
		}
	}
}

// optionsOf lists the dotted paths of all leaves, which must have a doc tag.
func optionsOf(t reflect.Type, prefix string) []string {
	var options []string
	for i := range t.NumField() {
		f := t.Field(i)
		path := prefix + f.Tag.Get("yaml")
		if f.Type.Kind() == reflect.Struct {
			options = append(options, optionsOf(f.Type, path+".")...)
			continue
		}
		options = append(options, path)
	}
	return options
}

func FuzzLoad(f *testing.F) {
	f.Add("listen: 127.0.0.1:8779\nquotas: {instances: 3}\n")
	f.Add("cloud: {local: {flavors: [{id: a, ram: 64, vcpus: 1}]}}")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "grove.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := config.Load(path, config.Defaults()); err == nil && c.Validate() != nil {
			t.Error("accepted what Validate refuses")
		}
	})
}

// With certificates for the broker nothing travels in clear.
func TestBrokerOverTLSAlone(t *testing.T) {
	good := config.RPC{URL: "amqps://g:p@mq/", GuestURL: "amqps://mq/", ManagementURL: "https://g:p@mq:15671", CAFile: "ca.pem"}
	c := config.Defaults()
	if c.RPC = good; c.Validate() != nil {
		t.Errorf("refused: %v", c.Validate())
	}
	for option, spoil := range map[string]func(*config.RPC){
		"rpc.url":            func(r *config.RPC) { r.URL = "amqp://g:p@mq/" },
		"rpc.guest_url":      func(r *config.RPC) { r.GuestURL = "amqp://mq/" },
		"rpc.management_url": func(r *config.RPC) { r.ManagementURL = "http://g:p@mq:15672" },
	} {
		c.RPC = good
		spoil(&c.RPC)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), option) {
			t.Errorf("%s in clear gave %v", option, err)
		}
	}
}
