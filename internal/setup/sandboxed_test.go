package setup

import "testing"

// A script that runs wild in a test must not reach this machine.
func TestMachineIsItsOwn(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	m := newMachine(t, nil)
	for _, file := range []string{"/usr/sandbox-test", "/usr/sbin/sandbox-test"} {
		if out, err := m.run("touch " + file); err == nil {
			_, _ = m.run("rm " + file)
			t.Errorf("a script writes to this machine's %s: %s", file, out)
		}
	}
	if out, err := m.run("touch /usr/local/share/here /etc/here"); err != nil {
		t.Errorf("a script cannot write to its own machine: %s", out)
	}
}
