package architecture

import (
	"strings"
	"testing"
)

// Each planted file breaks one rule, which must notice; each of the others must be left alone.
func TestRulesNotice(t *testing.T) {
	const doc = "// Package p is planted.\npackage p\n"
	planted := []struct {
		rule, path, source string
		want               string // part of the sentence; "" for a file that is in order
	}{
		{"imports", "internal/store/a.go", `package store; import _ "` + module + `/internal/control"`, "internal/store must not import internal/control"},
		{"imports", "internal/host/a.go", `package host; import _ "` + module + `/internal/clock"`, "must not import internal/clock"},
		{"imports", "api/a.go", `package api; import _ "` + module + `/taskmanager"`, "must not import taskmanager"},
		{"imports", "api/wire/a.go", `package wire; import _ "` + module + `/api"`, "must not import api"},
		{"imports", "cmd/groved/a.go", `package main; import _ "` + module + `/cmd/grove/x"`, "must not import cmd/grove/x"},
		{"imports", "api/a.go", `package api; import _ "` + module + `/internal/testbed"`, "must not import internal/testbed"},
		{"imports", "internal/attic/a.go", `package attic`, "stands on no floor"},
		{"imports", "cmd/grove/a.go", `package main; import _ "` + module + `/cmd/grove/internal/x"`, ""},
		{"imports", "internal/rpc/amqp/a.go", `package amqp; import _ "` + module + `/internal/rpc"`, ""},
		{"imports", "datastore/redis/a.go", `package redis; import _ "` + module + `/datastore"`, ""},
		{"imports", "api/a.go", `package api; import _ "` + module + `/api/wire"`, ""},
		{"imports", "internal/store/a_test.go", `package store; import _ "` + module + `/internal/testbed"`, ""},
		{"third parties", "api/a.go", `package api; import _ "gorm.io/gorm"`, "api must not import gorm.io/gorm: its owner is internal/store"},
		{"third parties", "internal/dbaas/a.go", `package dbaas; import _ "github.com/google/uuid"`, "must not import"},
		{"third parties", "api/a.go", `package api; import _ "example.org/new"`, "must not import example.org/new"},
		{"third parties", "internal/store/a.go", `package store; import _ "gorm.io/gorm"`, ""},
		{"linked", "cmd/grove-agent/main.go", `package main; import _ "` + module + `/internal/store"`, "cmd/grove-agent must not link internal/store"},
		{"documented", "api/a.go", doc + "func Open() {}", "Open is exported and has no doc comment"},
		{"documented", "api/a.go", doc + "type T struct{}", "T is exported"},
		{"documented", "api/a.go", doc + "const C = 1", "C is exported"},
		{"documented", "api/a.go", doc + "// T is fine.\ntype T struct{}\n\ntype t struct{}\n\nfunc (t) Run() {}", ""},
		{"package docs", "api/a.go", "package api", "no package comment"},
		{"init", "api/a.go", doc + "func init() {}", "no init()"},
		{"variables", "api/a.go", doc + "var n int", "n has no value"},
		{"variables", "api/a.go", doc + "var m = map[string]int{}\nfunc f() { m[`a`] = 1 }", "m is assigned to"},
		{"variables", "api/a.go", doc + "var n = 1\nfunc f() { n++ }", "n is assigned to"},
		{"variables", "api/a.go", doc + "var once = &sync.Once{}", "comes from package sync"},
		{"variables", "api/a.go", doc + "var v = sync.OnceValue(func() int { return 1 })", ""},
		{"variables", "api/a.go", doc + "var m = map[string]int{`a`: 1}\nfunc f() { m := map[string]int{}; m[`a`] = 2 }", ""},
		{"clock", "api/a.go", doc + "import `time`\nfunc f() { time.Sleep(1) }", "no time.Sleep"},
		{"clock", "api/a.go", doc + "import `time`\nfunc f() { time.Now() }", "no time.Now"},
		{"clock", "internal/host/a.go", doc + "import `time`\nfunc f() { time.Now() }", ""},
		{"format", "api/a.go", doc + "func  f() {}\n", "not formatted"},
		{"package names", "internal/x/a.go", "package util", "package util"},
		{"left to do", "api/a.go", doc + "// TO" + "DO: more", "what is left to do"},
	}
	for _, p := range planted {
		f, err := parse(p.path, []byte(p.source))
		if err != nil {
			t.Fatalf("%s: %v", p.source, err)
		}
		got := strings.Join(rules[p.rule]([]*file{f}), "\n")
		if p.want == "" && got != "" || !strings.Contains(got, p.want) {
			t.Errorf("rule %q on %s\n%s\nsaid %q, want %q", p.rule, p.path, p.source, got, p.want)
		}
	}
}
