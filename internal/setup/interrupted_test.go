package setup

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

// countMoves has the programs by which a script changes the machine count themselves in /moves. The one with the number in
// /die kills itself and the script instead.
func (m *machine) countMoves(trustTools ...string) {
	for _, name := range []string{"mkdir", "mv", "rm", "rmdir"} {
		m.write("tools/"+name, counted+"exec /usr/bin/"+name+" \"$@\"\n", 0o755)
	}
	for _, name := range append(trustTools, "systemctl") {
		m.write("tools/"+name, counted+m.read("tools/"+name), 0o755)
	}
}

const counted = `#!/bin/sh
read -r n </moves
n=$((n + 1))
echo $n >/moves
read -r die </die
[ $n != "$die" ] || kill -9 0
`

// until runs a script until its move with a number; 0 is to its end. It says whether the script was killed.
func (m *machine) until(file string, move int) (killed bool) {
	m.t.Helper()
	m.write("moves", "0\n", 0o644)
	m.write("die", fmt.Sprintln(move), 0o644)
	out, err := m.run("setsid --wait sh " + file)
	if err != nil && move == 0 {
		m.t.Fatalf("%s: %v: %s", file, err, out)
	}
	return err != nil
}

// Power fails, or somebody has no patience while the authorities are gathered: a script, or an undo, that is cut off at any
// of its moves is ended by the next run of it, which does all that there was to do. An undo in its place undoes the half.
func TestScriptsThatAreCutOff(t *testing.T) {
	t.Parallel()
	needSandbox(t, "setsid")
	h := Handler(Config{CertificatePEM: newAuthority(t), Registries: registries})
	settings := settings()
	settings = append(settings, setting{client: "systemd", units: []string{"docker.service"}, calls: settings[0].calls, undone: settings[0].undone})
	step := 1
	if os.Getenv("LONG") == "" { // it takes minutes
		settings, step = settings[:1], 4
	}
	for _, s := range settings {
		t.Run(s.client+s.query, func(t *testing.T) {
			t.Parallel()
			trust, distrust := []string{"update-ca-certificates"}, []string{"update-ca-certificates --fresh"}
			if s.query != "" {
				trust, distrust = nil, nil
			}
			c := cutOff{
				setting: s, setUp: get(h, "GET", "/setup/"+s.client+s.query, "proxy.lan:3128").Body.String(),
				undo:   get(h, "GET", "/setup/"+s.client+"/undo", "proxy.lan:3128").Body.String(),
				told:   append(trust, s.calls...),
				untold: append(distrust, s.undone...),
			}
			m := c.machine(t)
			m.until("/setup.sh", 0)
			c.after = m.tree()
			for move := 1; c.setUpCutOff(t, move); move += step {
			}
			for move := 1; c.undoCutOff(t, move); move += step {
			}
		})
	}
}

// cutOff is a setting with its scripts.
type cutOff struct {
	setting
	setUp, undo   string
	told, untold  []string // what the machine is told in the end
	before, after string   // its tree
}

func (c *cutOff) machine(t *testing.T) *machine {
	t.Helper()
	m := newClientMachine(t, c.units...)
	m.countMoves("update-ca-certificates")
	m.write("setup.sh", c.setUp, 0o644)
	m.write("undo.sh", c.undo, 0o644)
	c.before = m.tree()
	return m
}

func (c *cutOff) setUpCutOff(t *testing.T, move int) (cut bool) {
	m := c.machine(t)
	if !m.until("/setup.sh", move) {
		return false
	}
	m.until("/undo.sh", 0)
	if got := m.tree(); got != c.before {
		t.Errorf("cut off at move %d and undone there is\n%s\nbefore there was\n%s", move, got, c.before)
	}
	m.takeCalls()
	m.until("/setup.sh", move)
	m.until("/setup.sh", 0)
	c.wantTold(t, m, c.told, "cut off at move %d and run again", move)
	if got := m.tree(); got != c.after {
		t.Errorf("cut off at move %d and run again there is\n%s\nwant\n%s", move, got, c.after)
	}
	m.until("/undo.sh", 0)
	if got := m.tree(); got != c.before {
		t.Errorf("cut off at move %d, run again and undone there is\n%s\nbefore there was\n%s", move, got, c.before)
	}
	return true
}

func (c *cutOff) undoCutOff(t *testing.T, move int) (cut bool) {
	m := c.machine(t)
	m.until("/setup.sh", 0)
	m.takeCalls()
	if !m.until("/undo.sh", move) {
		return false
	}
	m.until("/undo.sh", 0)
	c.wantTold(t, m, c.untold, "undo cut off at move %d and run again", move)
	if got := m.tree(); got != c.before {
		t.Errorf("undo cut off at move %d and run again there is\n%s\nbefore there was\n%s", move, got, c.before)
	}
	return true
}

// wantTold checks that the machine was told all, maybe twice, and nothing else.
func (c *cutOff) wantTold(t *testing.T, m *machine, want []string, format string, move int) {
	t.Helper()
	got := m.takeCalls()
	for _, call := range want {
		if !slices.Contains(got, call) {
			t.Errorf(format+": the machine was not told %q, but %q", move, call, got)
		}
	}
	for _, call := range got {
		if !slices.Contains(want, call) {
			t.Errorf(format+": the machine was told %q", move, call)
		}
	}
}
