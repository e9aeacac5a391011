package testbed

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// PostgresVariable names a PostgreSQL server for tests, by a URL whose user may create databases; `make test` sets it.
// Without it a test binary starts a private server.
const PostgresVariable = "GROVE_TEST_POSTGRES"

// Postgres gives the URL of a fresh database, which is dropped when the test ends. It skips the test where there is no
// PostgreSQL.
func Postgres(t testing.TB) string {
	t.Helper()
	server, err := postgresServer()
	if errors.Is(err, errNoPostgres) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("start a private PostgreSQL: %v", err)
	}
	name := "grove_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if err := onServer(server.url, `CREATE DATABASE `+name); err != nil {
		t.Fatalf("create a database: %v", err)
	}
	t.Cleanup(func() {
		if err := onServer(server.url, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	u := *server.url
	u.Path = "/" + name
	return u.String()
}

var errNoPostgres = errors.New("PostgreSQL is not installed (apt-get install postgresql) and " + PostgresVariable + " is not set")

// postgresCluster is a running server. While leash is open it lives.
type postgresCluster struct {
	url   *url.URL
	leash *os.File // nil: not ours
}

// postgresServer is the server that all tests of this binary share.
var postgresServer = sync.OnceValues(func() (*postgresCluster, error) {
	if v := os.Getenv(PostgresVariable); v != "" {
		u, err := url.Parse(v)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", PostgresVariable, err)
		}
		return &postgresCluster{url: u}, nil
	}
	return startPostgres()
})

func onServer(server *url.URL, statement string) error {
	db, err := sql.Open("pgx", server.String())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err = db.ExecContext(ctx, statement)
	return errors.Join(err, db.Close())
}

// startPostgres makes a cluster in a temporary directory and serves it on a free loopback port. A shell keeps watch
// over it: it ends the server and removes the directory when its standard input does, that is when the test binary
// ends, in whatever way. Nothing needs to be called at the end.
func startPostgres() (*postgresCluster, error) {
	dir, as, u, command, err := initPostgres()
	if err != nil {
		return nil, err
	}
	leash, err := watched(dir, as, command...)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &postgresCluster{url: u, leash: leash}, awaitPostgres(u, filepath.Join(dir, "log"))
}

// initPostgres makes a cluster in a temporary directory, and says how to serve it and where it is then.
func initPostgres() (dir string, as *syscall.SysProcAttr, u *url.URL, command []string, err error) {
	bin, err := postgresBin()
	if err != nil {
		return "", nil, nil, nil, err
	}
	port, err := freePort()
	if err != nil {
		return "", nil, nil, nil, err
	}
	if dir, as, err = postgresDir(); err != nil {
		return "", nil, nil, nil, err
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
		"--locale=C.UTF-8", "--no-sync", "--no-instructions")
	initdb.SysProcAttr, initdb.Dir = as, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return "", nil, nil, nil, errors.Join(fmt.Errorf("initdb: %w: %s", err, out), os.RemoveAll(dir))
	}
	u = &url.URL{Scheme: "postgres", User: url.User("postgres"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Path: "/postgres", RawQuery: "sslmode=disable"}
	return dir, as, u, []string{filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-h", "127.0.0.1",
		"-p", strconv.Itoa(port), "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=500",
		"-c", "shared_buffers=128MB", "-c", "max_wal_size=2GB"}, nil
}

// Database is a PostgreSQL server of one test alone, which may end it.
type Database struct {
	URL string

	dir     string
	as      *syscall.SysProcAttr
	command []string
	node    *process
}

// PrivatePostgres starts a server that goes with the test. It skips the test where there is no PostgreSQL.
func PrivatePostgres(t testing.TB) *Database {
	t.Helper()
	dir, as, u, command, err := initPostgres()
	if errors.Is(err, errNoPostgres) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("make a private PostgreSQL: %v", err)
	}
	watch, err := removeAfterwards(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := &Database{URL: u.String(), dir: dir, as: as, command: command}
	d.Start(t)
	t.Cleanup(func() {
		d.Kill()
		_ = watch.Close()
		_ = os.RemoveAll(dir)
	})
	return d
}

// Start starts a server that was killed, and returns when it answers.
func (d *Database) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(d.command[0], d.command[1:]...)
	attr := *d.as
	cmd.SysProcAttr, cmd.Dir = &attr, d.dir
	var err error
	if d.node, err = startProcess(cmd); err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	u, err := url.Parse(d.URL)
	if err == nil {
		err = awaitPostgres(u, filepath.Join(d.dir, "log"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Dir is where the server keeps all its files.
func (d *Database) Dir() string { return d.dir }

// Kill ends the server at once, as `pg_ctl stop -m immediate` does: connections are cut, and the next start recovers.
func (d *Database) Kill() { d.node.stop(syscall.SIGQUIT, time.Minute) }

// watched starts a server under a shell that stops it when the leash is closed, at the latest by the end of this process.
func watched(dir string, as *syscall.SysProcAttr, command ...string) (leash *os.File, err error) {
	const watch = `trap '' INT TERM; "$@" >log 2>&1 & server=$!; cat >/dev/null; kill -QUIT $server; wait $server; rm -rf "$PWD"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", watch, "sh"}, command...)...)
	attr := *as
	attr.Setpgid = true // a Ctrl-C is for the tests
	cmd.SysProcAttr, cmd.Dir = &attr, dir
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start postgres: %w", err), r.Close(), w.Close())
	}
	return w, r.Close()
}

func awaitPostgres(u *url.URL, log string) error {
	err := poll(context.Background(), 30*time.Second, func() error { return onServer(u, `SELECT 1`) })
	if err != nil {
		out, _ := os.ReadFile(log)
		return fmt.Errorf("postgres does not answer: %w: %s", err, out)
	}
	return nil
}

func postgresBin() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errNoPostgres
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// postgresDir makes the directory of a private server, and says as whom to run it: PostgreSQL refuses root, for whom
// its own user stands in.
func postgresDir() (dir string, as *syscall.SysProcAttr, err error) {
	if dir, err = os.MkdirTemp("", "grove-postgres-"); err != nil {
		return "", nil, err
	}
	as = &syscall.SysProcAttr{}
	if os.Geteuid() != 0 {
		return dir, as, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(dir))
	}
	uid, uidErr := strconv.Atoi(account.Uid)
	gid, gidErr := strconv.Atoi(account.Gid)
	if err := errors.Join(uidErr, gidErr, os.Chown(dir, uid, gid)); err != nil {
		return "", nil, errors.Join(err, os.Remove(dir))
	}
	as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return dir, as, nil
}
