// Package clouds reads clouds.yaml, the file in which users of OpenStack keep their connections.
package clouds

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Cloud is one connection.
type Cloud struct {
	AuthType         string `yaml:"auth_type"`
	Auth             Auth   `yaml:"auth"`
	DatabaseEndpoint string `yaml:"database_endpoint_override"`
	Endpoint         string `yaml:"endpoint_override"`
	Verify           *bool  `yaml:"verify"`
	CACert           string `yaml:"cacert"`
}

// Auth is how to log in to a cloud.
type Auth struct {
	Endpoint    string `yaml:"endpoint"`
	Token       string `yaml:"token"`
	AuthURL     string `yaml:"auth_url"`
	ProjectID   string `yaml:"project_id"`
	ProjectName string `yaml:"project_name"`
}

// file is the part of clouds.yaml and secure.yaml that is read; nodes, because the two are laid over each other.
type file struct {
	Clouds map[string]yaml.Node `yaml:"clouds"`
}

// Parse reads the cloud called name from the text of a clouds.yaml, then what secure adds to it.
func Parse(name string, text, secure []byte) (*Cloud, error) {
	var public, private file
	if err := yaml.Unmarshal(text, &public); err != nil {
		return nil, fmt.Errorf("read clouds.yaml: %w", err)
	}
	if err := yaml.Unmarshal(secure, &private); err != nil {
		return nil, errors.New("read secure.yaml: it is not valid YAML") // the parser's message might quote a secret
	}
	node, ok := public.Clouds[name]
	if !ok {
		return nil, fmt.Errorf("there is no cloud %q in clouds.yaml; it has: %s", name, names(public))
	}
	var c Cloud
	if err := node.Decode(&c); err != nil {
		return nil, fmt.Errorf("read cloud %q of clouds.yaml: a value has another type than it should", name)
	}
	if node, ok := private.Clouds[name]; ok {
		if err := node.Decode(&c); err != nil {
			return nil, fmt.Errorf("read cloud %q of secure.yaml: a value has another type than it should", name)
		}
	}
	return &c, nil
}

func names(f file) string {
	if len(f.Clouds) == 0 {
		return "none"
	}
	all := make([]string, 0, len(f.Clouds))
	for name := range f.Clouds {
		all = append(all, name)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// Load finds clouds.yaml where OpenStack's clients look for it and reads the cloud called name. getenv is os.Getenv.
func Load(name string, getenv func(string) string) (*Cloud, error) {
	text, err := first("clouds", getenv("OS_CLIENT_CONFIG_FILE"), getenv)
	if err != nil {
		return nil, err
	}
	if text == nil {
		return nil, fmt.Errorf("cloud %q was asked for, but there is no clouds.yaml in %s", name, strings.Join(directories(getenv), ", "))
	}
	secure, err := first("secure", getenv("OS_CLIENT_SECURE_FILE"), getenv)
	if err != nil {
		return nil, err
	}
	return Parse(name, text, secure)
}

// first reads the first file of that name; nil when there is none.
func first(name, chosen string, getenv func(string) string) ([]byte, error) {
	if chosen != "" {
		text, err := os.ReadFile(chosen)
		return text, err
	}
	for _, dir := range directories(getenv) {
		for _, ext := range []string{".yaml", ".yml"} {
			text, err := os.ReadFile(filepath.Join(dir, name+ext))
			if err == nil || !errors.Is(err, fs.ErrNotExist) {
				return text, err
			}
		}
	}
	return nil, nil
}

func directories(getenv func(string) string) []string {
	config := getenv("XDG_CONFIG_HOME")
	if config == "" {
		config = filepath.Join(getenv("HOME"), ".config")
	}
	return []string{".", filepath.Join(config, "openstack"), "/etc/openstack"}
}
