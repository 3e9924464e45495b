package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// helperTimeout bounds one run where the configuration does not. Helpers that ask a cloud's metadata service and its login service take seconds.
	helperTimeout = 30 * time.Second
	// maxHelperOutput bounds what is read of one run. The longest secrets, ECR's, have some 3 KiB.
	maxHelperOutput = 64 << 10
	// notFound is what a helper prints that has no login, by Docker's convention.
	notFound = "credentials not found in native keychain"
)

// helperCall is a question to a helper.
type helperCall struct {
	program string // the end of its name, or its path
	server  string
	label   string // for messages
	// required has a helper without a login count as one that fails.
	required bool
}

// validProgram reports whether a config.json may name the helper so: the end of a program's name, and no path.
func validProgram(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

// CheckHelper says what is wrong with the name of a helper, or nothing.
func CheckHelper(name string) error {
	if filepath.IsAbs(name) || validProgram(name) {
		return nil
	}
	return errors.New("want the end of a helper's name, such as ecr-login for docker-credential-ecr-login, or its whole path")
}

// command finds the program, in the PATH of environ unless it is a path already. It starts it without a shell and
// with that environment; what it starts itself ends with it if it takes too long.
func command(ctx context.Context, program string, environ []string) (*exec.Cmd, error) {
	path := program
	if !filepath.IsAbs(path) {
		var err error
		if path, err = lookPath("docker-credential-"+program, environ); err != nil {
			return nil, err
		}
	}
	cmd := exec.CommandContext(ctx, path, "get")
	cmd.Env = environ
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd, nil
}

// lookPath finds a program in the absolute directories of the PATH of environ.
func lookPath(name string, environ []string) (string, error) {
	var path string
	for _, variable := range environ {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			path = value
		}
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); filepath.IsAbs(dir) && err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s is in no directory of PATH", name)
}

// run asks a helper (the protocol of docker-credential-helpers, "get"): it reads the server's name and prints, for
// example, {"ServerURL": "gcr.io", "Username": "_dcgcloud_token", "Secret": "…"}. The error is [ErrNone] where it has
// no login for the server. It shows nothing that the helper printed: a helper in trouble may print a secret.
func (h *helpers) run(ctx context.Context, call helperCall) (Login, error) {
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	cmd, err := command(ctx, call.program, h.environ)
	if err != nil {
		return Login{}, err
	}
	out := &bounded{}
	cmd.Stdin, cmd.Stdout = strings.NewReader(call.server), out
	err = cmd.Run()
	name := filepath.Base(cmd.Path)
	exit, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return Login{}, fmt.Errorf("%s: no answer within %s", name, h.timeout)
	case out.full:
		return Login{}, fmt.Errorf("%s: prints more than %d bytes", name, maxHelperOutput)
	case failed && strings.TrimSpace(string(out.text)) == notFound:
		return Login{}, ErrNone
	case failed:
		return Login{}, fmt.Errorf("%s: %s: to see why, run it with get as its argument and %s as its input", name, exit.ProcessState, call.server)
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return Login{}, fmt.Errorf("%s: cannot be run: %w", name, reason(err))
	}
	login, err := parseHelper(out.text)
	if err != nil && !errors.Is(err, ErrNone) {
		err = fmt.Errorf("%s: %w", name, err)
	}
	login.Source = call.label
	return login, err
}

// reason is the error without the path, which the message has already.
func reason(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}

// parseHelper reads the answer of a helper. Some give an empty login instead of none.
func parseHelper(text []byte) (Login, error) {
	var answer struct{ Username, Secret string }
	if json.Unmarshal(text, &answer) != nil { // the decoder's own words may quote a secret
		return Login{}, errors.New("its answer is not the JSON of a login")
	}
	switch {
	case answer.Secret == "":
		return Login{}, ErrNone
	case strings.Contains(answer.Username, ":"):
		return Login{}, errors.New("its answer has a user name with a colon")
	}
	return newLogin(answer.Username, answer.Secret, ""), nil
}

// bounded keeps what is written to it up to maxHelperOutput, and then refuses more.
type bounded struct {
	text []byte
	full bool
}

var errFull = errors.New("output is too long")

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.text)+len(p) > maxHelperOutput {
		b.full = true
		return 0, errFull
	}
	b.text = append(b.text, p...)
	return len(p), nil
}
