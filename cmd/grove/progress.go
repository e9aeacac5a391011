package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// progress shows how far work is: one line that is drawn anew on a terminal, a line per step elsewhere.
type progress struct {
	out      *os.File
	quiet    bool
	terminal bool
	clock    clock.Clock
	started  time.Time
	frame    int
	trouble  string            // why the server gave no answer, "" when it did
	shown    map[string]int    // by operation: how many finished steps were printed
	last     map[string]string // by operation: the line of the last finished step
	current  map[string]string // by operation: the running step that was printed
}

// frameTime is how long a picture of the spinner stands.
const frameTime = 100 * time.Millisecond

func newProgress(out *os.File, quiet bool, c clock.Clock) *progress {
	return &progress{
		out: out, quiet: quiet, clock: c, started: c.Now(),
		terminal: term.IsTerminal(int(out.Fd())) && os.Getenv("TERM") != "dumb",
		shown:    map[string]int{}, last: map[string]string{}, current: map[string]string{},
	}
}

// saw takes note of an answer about w.
func (p *progress) saw(w *work) {
	p.trouble = ""
	if p.quiet {
		return
	}
	if p.terminal {
		if w.ended() {
			p.line(w.name + ": " + ending(w.op))
		}
		return
	}
	p.finishedSteps(w)
	if step := w.op.Step; !w.ended() && step != p.current[w.id] {
		p.current[w.id] = step
		p.line(w.name + ": " + describe(w.op))
	}
	if w.ended() {
		p.line(w.name + ": " + ending(w.op))
	}
}

// finishedSteps prints the steps that ended since the last answer, so that none is missed however fast they are. A step
// that is tried again and again is one line.
func (p *progress) finishedSteps(w *work) {
	for _, s := range w.op.Steps[min(p.shown[w.id], len(w.op.Steps)):] {
		text := fmt.Sprintf("%s: %s %s %s", w.name, s.Kind, s.Step, s.Outcome)
		if s.Message != "" {
			text += ": " + s.Message
		}
		if text != p.last[w.id] {
			p.line(text)
		}
		p.last[w.id] = text
	}
	p.shown[w.id] = len(w.op.Steps)
}

// away takes note that the server does not answer.
func (p *progress) away(err error) {
	if p.trouble == "" && !p.terminal && !p.quiet {
		p.line("no answer from the server, trying again: " + err.Error())
	}
	p.trouble = "no answer from the server, trying again"
}

// pause waits until the next question is due, drawing meanwhile.
func (p *progress) pause(ctx context.Context, all []*work) error {
	wait := steady
	if p.clock.Now().Sub(p.started) < eagerFor {
		wait = eager
	}
	for ; wait > 0; wait -= frameTime {
		p.draw(all)
		t := time.NewTimer(min(wait, frameTime))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
	return nil
}

// line prints a line that stays, after the elapsed time.
func (p *progress) line(text string) {
	p.erase()
	fmt.Fprintf(p.out, "[%s] %s\n", p.elapsed(), text)
}

func (p *progress) elapsed() string {
	d := p.clock.Now().Sub(p.started)
	if d < time.Minute {
		return fmt.Sprintf("%4.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// draw shows the updating line, cut to the width of the terminal.
func (p *progress) draw(all []*work) {
	if p.quiet || !p.terminal {
		return
	}
	spinner := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	p.frame++
	text := []rune(fmt.Sprintf("%c [%s] %s", spinner[p.frame%len(spinner)], p.elapsed(), p.summary(all)))
	if width, _, err := term.GetSize(int(p.out.Fd())); err == nil && width > 1 && len(text) >= width {
		text = append(text[:width-2], '…')
	}
	fmt.Fprintf(p.out, "\r%s\x1b[K", string(text))
}

// erase takes the updating line away.
func (p *progress) erase() {
	if p.terminal && !p.quiet {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// end leaves the terminal clean.
func (p *progress) end() { p.erase() }

// summary is one line about the first operation that is open, and how many more there are.
func (p *progress) summary(all []*work) string {
	var parts []string
	if left := open(all); len(left) > 0 {
		if left[0].op == nil {
			parts = append(parts, left[0].name)
		} else {
			parts = append(parts, left[0].name+": "+describe(left[0].op))
		}
		if more := len(left) - 1; more > 0 {
			parts = append(parts, fmt.Sprintf("and %d more", more))
		}
	}
	if p.trouble != "" {
		parts = append(parts, p.trouble)
	}
	return strings.Join(parts, ", ")
}

// describe says where an operation stands: "create_instance 3/11 ensureVolume: waiting for the volume (attempt 2)".
func describe(op *wire.Operation) string {
	text := op.Kind
	if op.StepTotal > 0 {
		text += fmt.Sprintf(" %d/%d", op.StepNumber, op.StepTotal)
	}
	if op.Step != "" {
		text += " " + op.Step
	}
	if op.Progress != "" {
		text += ": " + op.Progress
	}
	if op.Attempt > 1 {
		text += fmt.Sprintf(" (attempt %d)", op.Attempt)
	}
	if s := dbaas.OperationStatus(op.Status); s != dbaas.OperationRunning {
		text += " [" + op.Status + "]"
	}
	return text
}

func ending(op *wire.Operation) string { return op.Kind + " " + op.Status + reason(op) }
