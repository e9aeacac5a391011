package clouds

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const example = `
clouds:
  dev:
    auth_type: none
    auth: {endpoint: "http://127.0.0.1:8779/v1.0/demo"}
  prod: &prod
    auth: {auth_url: https://keystone.example/v3, project_id: 0123, token: public}
    verify: false
    cacert: /etc/ca.pem
    region_name: RegionOne
    database_endpoint_override: https://db.example
  broken:
    auth: 7
`

func TestParse(t *testing.T) {
	c, err := Parse("prod", []byte(example), []byte("clouds: {prod: {auth: {token: private}}}"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Auth.Token != "private" || c.Auth.ProjectID != "0123" || c.Verify == nil || *c.Verify || c.DatabaseEndpoint != "https://db.example" || c.CACert != "/etc/ca.pem" {
		t.Errorf("got %+v", c)
	}
	if c, err := Parse("dev", []byte(example), nil); err != nil || c.AuthType != "none" || c.Auth.Endpoint == "" || c.Verify != nil {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestParseSaysWhatIsWrongAndShowsNoSecret(t *testing.T) {
	for _, test := range []struct{ name, text, secure, want string }{
		{"nosuch", example, "", "it has: broken, dev, prod"},
		{"nosuch", "", "", "it has: none"},
		{"broken", example, "", `cloud "broken" of clouds.yaml`},
		{"dev", "clouds: [", "", "read clouds.yaml"},
		{"dev", example, "clouds: {dev: {auth: s3cret}}", `cloud "dev" of secure.yaml`},
		{"dev", example, "s3cret: [", "secure.yaml: it is not valid YAML"},
	} {
		_, err := Parse(test.name, []byte(test.text), []byte(test.secure))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the secret is in %q", err)
		}
	}
}

func TestLoadSearchesWhereOpenStackDoes(t *testing.T) {
	home, work := t.TempDir(), t.TempDir()
	t.Chdir(work)
	getenv := func(name string) string { return map[string]string{"HOME": home}[name] }
	if _, err := Load("a", getenv); err == nil || !strings.Contains(err.Error(), "there is no clouds.yaml in ., "+home) {
		t.Errorf("got %v", err)
	}
	put := func(path, endpoint string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("clouds: {a: {endpoint_override: "+endpoint+"}}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(getenv func(string) string, want string) {
		t.Helper()
		c, err := Load("a", getenv)
		if err != nil || c.Endpoint != want {
			t.Errorf("got %+v, %v, want %s", c, err, want)
		}
	}
	put(filepath.Join(home, ".config/openstack/clouds.yaml"), "from-home")
	check(getenv, "from-home")
	put(filepath.Join(work, "clouds.yml"), "from-here")
	check(getenv, "from-here")
	chosen := filepath.Join(home, "mine.yaml")
	put(chosen, "from-variable")
	check(func(name string) string {
		return map[string]string{"HOME": home, "OS_CLIENT_CONFIG_FILE": chosen}[name]
	}, "from-variable")
}

func FuzzParse(f *testing.F) {
	f.Add("prod", []byte(example), []byte("clouds: {prod: {auth: {token: x}}}"))
	f.Add("a", []byte("clouds: {a: *b}"), []byte(""))
	f.Add("a", []byte("clouds: {a: }"), []byte("- 1"))
	f.Fuzz(func(t *testing.T, name string, text, secure []byte) {
		c, err := Parse(name, text, secure)
		if (c == nil) == (err == nil) {
			t.Errorf("got %v and %v", c, err)
		}
	})
}
