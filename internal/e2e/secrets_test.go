package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// leak looks for secrets, in whatever form they may stand.
type leak struct {
	t       *testing.T
	mu      sync.Mutex
	secrets []secretThing
	found   []string
}

// secretThing is something that nobody may read but where it belongs.
type secretThing struct {
	name    string
	forms   [][]byte
	belongs *regexp.Regexp // paths of files that are for it; nil for none
}

// add has a secret looked for. belongs is a pattern of the files in which it must stand, "" for none.
func (l *leak) add(name, value, belongs string) {
	l.t.Helper()
	if len(value) < 8 {
		l.t.Fatalf("%s is %q: too short to be looked for", name, value)
	}
	s := secretThing{name: name, forms: forms(value)}
	if belongs != "" {
		s.belongs = regexp.MustCompile(belongs)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.secrets = append(l.secrets, s)
}

// forms are the ways in which a value may be written down.
func forms(value string) [][]byte {
	quoted, _ := json.Marshal(value)
	all := [][]byte{[]byte(value), bytes.Trim(quoted, `"`), []byte(url.QueryEscape(value)), []byte(url.PathEscape(value)),
		[]byte(hex.EncodeToString([]byte(value))), []byte(strings.ToUpper(hex.EncodeToString([]byte(value))))}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 { // it may stand behind others: what depends on these is left out
			text := encoding.EncodeToString(append(make([]byte, before), value...))
			all = append(all, []byte(text[(before*8+5)/6:len(text)-1]))
		}
	}
	return all
}

// look looks at a text from somewhere.
func (l *leak) look(where string, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.secrets {
		if s.belongs != nil && s.belongs.MatchString(where) {
			continue
		}
		for _, form := range s.forms {
			if i := bytes.Index(text, form); i >= 0 {
				around := text[max(0, i-40):i]
				l.found = append(l.found, fmt.Sprintf("%s stands in %s, after %q", s.name, where, around))
				break
			}
		}
	}
}

// lookBelow looks at all files in a directory.
func (l *leak) lookBelow(dir string) {
	l.t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it may go while we look
		}
		if text, err := os.ReadFile(path); err == nil {
			l.look(path, text)
		}
		return nil
	})
	if err != nil {
		l.t.Error(err)
	}
}

// lookAtProcesses looks at the arguments and the environment of all processes that name dir in either.
func (l *leak) lookAtProcesses(dir string) (n int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		argv, err1 := os.ReadFile(path)
		env, err2 := os.ReadFile(filepath.Join(filepath.Dir(path), "environ"))
		if err1 == nil && err2 == nil && (bytes.Contains(argv, []byte(dir)) || bytes.Contains(env, []byte(dir))) {
			n++
			l.look(path+" "+string(argv), argv)
			l.look(filepath.Dir(path)+"/environ of "+string(argv), env)
		}
	}
	return n
}

// trace has the broker copy every message of the fleet's part of it, and looks at each.
func (f *fleet) trace(l *leak) (messages func() int) {
	f.t.Helper()
	u, err := url.Parse(f.amqpURL)
	if err != nil {
		f.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPut, f.broker.ManagementURL+"/api/vhosts/"+strings.TrimPrefix(u.Path, "/"), strings.NewReader(`{"tracing": true}`))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode >= 300 {
		f.t.Fatalf("trace: %+v, %v", resp, err)
	}
	resp.Body.Close()
	connection, err := amqp091.Dial(f.amqpURL)
	if err != nil {
		f.t.Fatal(err)
	}
	channel, err := connection.Channel()
	if err != nil {
		f.t.Fatal(err)
	}
	queue, err := channel.QueueDeclare("", false, true, true, false, nil)
	if err == nil {
		err = channel.QueueBind(queue.Name, "#", "amq.rabbitmq.trace", false, nil)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	copies, err := channel.Consume(queue.Name, "", true, true, false, false, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	var mu sync.Mutex
	n := 0
	var bodies [][]byte
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m := range copies {
			mu.Lock()
			n++
			bodies = append(bodies, m.Body)
			mu.Unlock()
		}
	}()
	f.t.Cleanup(func() {
		_ = connection.Close()
		<-done
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		for _, body := range bodies {
			l.look("a message", body)
		}
		return n
	}
}

// dumped is all that PostgreSQL holds, as text.
func (f *fleet) dumped() []byte {
	f.t.Helper()
	return postgresTool(f.t, "pg_dump", "--inserts", f.database.URL)
}

// TestSecretsAreNowhereInClear plants secrets, has everything done that touches them, with all logs at debug and with requests
// that fail, and looks for them wherever anything is written: logs, arguments and environments, messages, the database with its
// files, guests' files, answers (R17).
func TestSecretsAreNowhereInClear(t *testing.T) {
	const keystonePassword = "Ks/canary+of the=account"
	f := openFleet(t, fleetLease, localFleet()+"log: {level: debug}\nkeystone: {password: \""+keystonePassword+"\"}\nguests: {heartbeat: 1s}\n")
	dir := filepath.Dir(f.config)
	l := &leak{t: t}
	messages := f.trace(l)
	broker, err := url.Parse(f.amqpURL)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := broker.User.Password()
	l.add("the broker's administrator", password, `grove\.yaml$|rabbitmq\.conf$`)
	l.add("the account's password", keystonePassword, `grove\.yaml$`)
	keys, err := os.ReadFile(filepath.Join(dir, "data", "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(keys)) {
		_, key, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(key)
		if err != nil {
			t.Fatal(err)
		}
		l.add("a master key", string(raw), `/master\.key$`)
	}

	h := f.caller(0)
	pair := h.createProtected("pair", async())
	l.add("the first password of the tenant", pair.password, "")
	const rootPassword, userPassword, laterPassword = "Root&canary<2>\"quoted\"", "User+canary/3=of ours", "User+canary/4=of ours"
	l.add("root's password", rootPassword, "")
	l.add("a user's password", userPassword, "")
	l.add("a user's later password", laterPassword, "")
	path := "/instances/" + pair.id
	h.do(200, "POST", path+"/root", object{"password": rootPassword})
	pair.await("ACTIVE", "HEALTHY")
	h.do(202, "POST", path+"/users", object{"users": []object{{"name": "app", "password": userPassword, "databases": []object{{"name": "app:*"}}}}})
	pair.await("ACTIVE", "HEALTHY")
	h.do(202, "PUT", path+"/users", object{"users": []object{{"name": "app", "password": laterPassword}}})
	pair.await("ACTIVE", "HEALTHY")
	for _, refused := range []object{{"users": []object{{"name": "app", "password": userPassword, "host": 7}}}, {"users": []object{{"name": "no such name!", "password": userPassword}}}} {
		if a, err := h.try("POST", path+"/users", refused); err != nil || a.status < 400 {
			t.Errorf("%v: %+v, %v", refused, a, err)
		} else {
			l.look("a refusal", []byte(a.raw))
		}
	}
	pair.action(object{"resize": object{"volume": object{"size": 2}}})
	pair.awaitWithin(3*time.Minute, "ACTIVE", "HEALTHY")
	f.broker.Kill() // what fails now is logged
	pair.action(object{"restart": object{}})
	f.broker.Start(t)
	pair.awaitWithin(3*time.Minute, "ACTIVE", "HEALTHY")
	f.addGuestSecrets(l, filepath.Join(dir, "data", "servers"))

	for _, path := range []string{path, "/instances", path + "/users", "/operations", "/events?limit=1000", "/mgmt/instances/" + pair.id, "/mgmt/instances", path + "/configuration"} {
		a, err := f.administrator().try("GET", path, nil)
		if err != nil {
			t.Fatal(err)
		}
		l.look("GET "+path, []byte(a.raw))
	}
	l.lookBelow(dir)
	if n := l.lookAtProcesses(dir); n < 7 { // four roles, the cloud, two agents
		t.Errorf("only %d processes were looked at", n)
	}
	l.look("pg_dump", f.dumped())
	l.lookBelow(f.database.Dir())
	l.lookBelow(f.broker.Dir())
	if n := messages(); n < 20 {
		t.Errorf("only %d messages were looked at", n)
	}
	for _, one := range l.found {
		t.Error(one)
	}
	if err := f.remove(pair.id); err != nil {
		t.Error(err)
	}
}

// addGuestSecrets adds what each guest holds: it stands in the guest's own files and nowhere else.
func (f *fleet) addGuestSecrets(l *leak, servers string) {
	f.t.Helper()
	paths, err := filepath.Glob(filepath.Join(servers, "*", "bootstrap.json"))
	if err != nil || len(paths) != 2 {
		f.t.Fatalf("bootstraps: %v, %v", paths, err)
	}
	replicated := false
	for _, path := range paths {
		own := regexp.QuoteMeta(filepath.Dir(path))
		var b struct {
			RPCURL string `json:"rpc_url"`
			RPCKey []byte `json:"rpc_key"`
		}
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, &b)
		}
		login, parseErr := url.Parse(b.RPCURL)
		if err != nil || parseErr != nil || login.User == nil {
			f.t.Fatalf("%s: %v, %v", path, err, parseErr)
		}
		password, _ := login.User.Password()
		l.add("a guest's broker password", password, own+`/bootstrap\.json$`)
		l.add("a guest's message key", string(b.RPCKey), own+`/bootstrap\.json$`)
		_ = filepath.WalkDir(filepath.Dir(path), func(path string, _ fs.DirEntry, _ error) error {
			if strings.HasSuffix(path, ".conf") {
				text, _ := os.ReadFile(path)
				if found := regexp.MustCompile(`(?m)^masterauth "?([^"\s]+)`).FindSubmatch(text); found != nil {
					replicated = true
					l.add("a password of replication", string(found[1]), regexp.QuoteMeta(servers)+`/.*(\.conf|/redis/record\.json)$`) // it has to present it
				}
			}
			return nil
		})
	}
	if !replicated {
		f.t.Error("no standby's configuration was found")
	}
}

// The search finds what was written down, in every form.
func TestLeaksAreFound(t *testing.T) {
	const value = "A canary/with+\"signs\" in it"
	quoted, _ := json.Marshal(value)
	for name, text := range map[string]string{
		"clear": "x=" + value + ";", "json": string(quoted), "url": "amqp://g:" + url.QueryEscape(value) + "@h", "path": url.PathEscape(value),
		"hex": hex.EncodeToString([]byte("user:" + value)), "base64": base64.StdEncoding.EncodeToString([]byte("user:" + value + "!")),
		"base64 shifted": base64.URLEncoding.EncodeToString([]byte("a" + value)), "base64 again": base64.StdEncoding.EncodeToString([]byte("ab" + value + "cd")),
	} {
		l := &leak{t: t}
		l.add("it", value, `/its/place$`)
		l.look("/its/place", []byte(text))
		if len(l.found) > 0 {
			t.Errorf("%s: found where it belongs", name)
		}
		if l.look("/elsewhere", []byte(text)); len(l.found) != 1 {
			t.Errorf("%s: not found in %s", name, text)
		}
		if l.look("/elsewhere", []byte("nothing of it")); len(l.found) != 1 {
			t.Errorf("%s: found in nothing", name)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &leak{t: t}
	l.add("it", value, "")
	l.lookBelow(dir)
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", "read x", value, dir)
	cmd.Env = append(slices.Clone(os.Environ()), "LEAK="+value)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error { // it may be our copy still
		l.found = l.found[:min(1, len(l.found))]
		l.lookAtProcesses(dir)
		if len(l.found) != 3 {
			return fmt.Errorf("of a file, arguments and environment were found: %v", l.found)
		}
		return nil
	})
	_ = stdin.Close()
	_ = cmd.Wait()
}
