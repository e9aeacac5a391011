package api

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/internal/control"
)

// check is a compiled rule of a policy: whether it allows something to a caller.
type check func(p *Policy, c control.Caller) bool

// word is what a rule is made of: parentheses, and words that may hold quoted text and %(substitutions)s.
var word = regexp.MustCompile(`[()]|(?:%\([^)]*\)s|'[^']*'|"[^"]*"|[^\s()])+`)

// parser reads a rule in the language of oslo.policy: checks joined by or, and, not and parentheses, binding ever tighter in
// this order. Of its checks it lacks those that ask a remote server.
type parser struct {
	words []string
	refs  []string // rules that were asked
}

// compile reads a rule.
func compile(text string) (rule, error) {
	p := &parser{words: word.FindAllString(text, -1)}
	if len(p.words) == 0 {
		return rule{text: text, check: always(true)}, nil // as oslo.policy has it
	}
	c, err := p.either()
	if err == nil && len(p.words) > 0 {
		err = fmt.Errorf("%q is one word too many", p.words[0])
	}
	return rule{text: text, check: c, refs: p.refs}, err
}

func always(allowed bool) check { return func(*Policy, control.Caller) bool { return allowed } }

// take removes the next word if it is the given one.
func (p *parser) take(w string) bool {
	if len(p.words) == 0 || !strings.EqualFold(p.words[0], w) {
		return false
	}
	p.words = p.words[1:]
	return true
}

func (p *parser) either() (check, error) {
	left, err := p.both()
	for err == nil && p.take("or") {
		var right check
		a := left
		right, err = p.both()
		left = func(p *Policy, c control.Caller) bool { return a(p, c) || right(p, c) }
	}
	return left, err
}

func (p *parser) both() (check, error) {
	left, err := p.one()
	for err == nil && p.take("and") {
		var right check
		a := left
		right, err = p.one()
		left = func(p *Policy, c control.Caller) bool { return a(p, c) && right(p, c) }
	}
	return left, err
}

func (p *parser) one() (check, error) {
	switch {
	case p.take("not"):
		inner, err := p.one()
		return func(p *Policy, c control.Caller) bool { return !inner(p, c) }, err
	case p.take("("):
		inner, err := p.either()
		if err == nil && !p.take(")") {
			err = fmt.Errorf("a parenthesis is not closed")
		}
		return inner, err
	case p.take("@"):
		return always(true), nil
	case p.take("!"):
		return always(false), nil
	case len(p.words) == 0:
		return nil, fmt.Errorf("it ends where a check should follow")
	}
	w := p.words[0]
	p.words = p.words[1:]
	return p.check(w)
}

// check reads kind:match.
func (p *parser) check(w string) (check, error) {
	kind, match, ok := strings.Cut(w, ":")
	if !ok || match == "" {
		return nil, fmt.Errorf("%q is no check; a check is kind:match", w)
	}
	if (kind == "role" || kind == "rule") && strings.Contains(match, "%(") {
		return nil, fmt.Errorf("%q: a %s cannot be substituted here", w, kind)
	}
	switch kind {
	case "role":
		return func(_ *Policy, c control.Caller) bool {
			return slices.ContainsFunc(c.Roles, func(role string) bool { return strings.EqualFold(role, match) })
		}, nil
	case "rule":
		p.refs = append(p.refs, match)
		return func(p *Policy, c control.Caller) bool { return p.allows(match, c) }, nil
	case "http", "https":
		return nil, fmt.Errorf("%q: checks by a remote server are not supported", w)
	}
	left, err := parseValue(kind)
	if err != nil {
		return nil, err
	}
	right := func(control.Caller) string { return unquoted(match) }
	if name, ok := strings.CutPrefix(match, "%("); ok {
		if right, err = attribute(strings.TrimSuffix(name, ")s")); err != nil {
			return nil, err
		}
	}
	return func(_ *Policy, c control.Caller) bool { return left(c) != "" && strings.EqualFold(left(c), right(c)) }, nil
}

// parseValue reads the left side of a comparison: quoted text, or an attribute of the caller.
func parseValue(text string) (func(control.Caller) string, error) {
	if literal := unquoted(text); literal != text || text == "True" || text == "False" {
		return func(control.Caller) string { return literal }, nil
	}
	return attribute(text)
}

// attribute is something that a rule may compare: of the caller on the left, of what it is about on the right. Both are the
// same project: whoever asks for another one's is refused before.
func attribute(name string) (func(control.Caller) string, error) {
	switch name {
	case "project_id", "tenant", "tenant_id":
		return func(c control.Caller) string { return c.ProjectID }, nil
	case "user_id", "user":
		return func(c control.Caller) string { return c.UserID }, nil
	case "is_admin":
		return func(c control.Caller) string { return fmt.Sprint(c.Admin) }, nil
	case "system_scope", "domain_id": // a token for either is no project's, and refused before
		return func(control.Caller) string { return "" }, nil
	}
	return nil, fmt.Errorf("there is no attribute %q; there are project_id, tenant, user_id, is_admin, system_scope and domain_id", name)
}

func unquoted(text string) string {
	if n := len(text); n >= 2 && text[0] == text[n-1] && (text[0] == '\'' || text[0] == '"') {
		return text[1 : n-1]
	}
	return text
}
