package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"
)

// interactive tells whether there is somebody who can answer.
func (a *app) interactive() bool {
	return term.IsTerminal(int(a.in.Fd())) && term.IsTerminal(int(a.err.Fd()))
}

// ask puts a question and takes only a clear yes for one.
func (a *app) ask(ctx context.Context, question string) (bool, error) {
	fmt.Fprint(a.err, question)
	answer, err := interruptible(ctx, func() (string, error) { return readLine(a.in) })
	if err != nil {
		fmt.Fprintln(a.err)
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

// askPassword asks for a new password twice, without showing it.
func (a *app) askPassword(ctx context.Context) (string, error) {
	if !a.interactive() {
		return "", errors.New("there is no terminal to ask for a password; use --password-stdin")
	}
	first, err := a.readHidden(ctx, "New password: ")
	if err != nil {
		return "", err
	}
	second, err := a.readHidden(ctx, "Again: ")
	if err == nil && first != second {
		err = errors.New("the two passwords differ; nothing was changed")
	}
	return first, err
}

func (a *app) readHidden(ctx context.Context, prompt string) (string, error) {
	fd := int(a.in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(a.err, prompt)
	text, err := interruptible(ctx, func() (string, error) {
		b, err := term.ReadPassword(fd)
		return string(b), err
	})
	if ctx.Err() != nil {
		_ = term.Restore(fd, before) // the read still waits with the echo switched off
	}
	fmt.Fprintln(a.err)
	return text, err
}

// interruptible reads from somebody who may press Ctrl-C instead.
func interruptible(ctx context.Context, read func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := read()
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// readLine reads up to the first line break; the end of the input ends a line too.
func readLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, 1<<16)).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return strings.TrimRight(line, "\r\n"), err
}
