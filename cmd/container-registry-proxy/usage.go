package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// usageError is a mistake in the command line or the configuration.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// wantFlags says where the flags are that a command has, and of which kind their values.
func wantFlags(c *cobra.Command, err error) error {
	return &usageError{fmt.Errorf("%w: %s --help has those there are", err, c.CommandPath())}
}

// noArguments is for the commands that take none.
func noArguments(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &usageError{fmt.Errorf("%q is nothing for %q, which takes flags alone: %[2]s --help has them", args[0], c.CommandPath())}
}

// oneOf is for commands that have others below them, and those that take the name of one.
func oneOf(parent *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range parent.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return &usageError{fmt.Errorf("unknown command %q for %q: want one of %s", strings.Join(args, " "), parent.CommandPath(), strings.Join(names, ", "))}
}

// strict has the commands that cobra adds by itself refuse what they do not know.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Run, c.RunE = nil, func(_ *cobra.Command, args []string) error {
				about, rest, err := root.Find(args)
				if err != nil || len(rest) > 0 {
					return oneOf(root, args)
				}
				return about.Help()
			}
		case "completion":
			c.Args = oneOf
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	}
}

// count is a flag's number of things, one at least.
type count int

func (n *count) String() string { return strconv.Itoa(int(*n)) }

// Type names the value in the help.
func (n *count) Type() string { return "number" }

// Set is given what the command line has.
func (n *count) Set(v string) error {
	i, err := strconv.Atoi(v)
	if err != nil || i < 1 {
		return errors.New("want a whole number from 1 on, such as 3")
	}
	*n = count(i)
	return nil
}

// parseProxy reads an address of the proxy: its URL, as HTTPS_PROXY has it, or host:port. What is wrong with it is said
// without it, since there may be a password in it.
func parseProxy(v string) (*url.URL, error) {
	bare := !strings.Contains(v, "://")
	if bare {
		v = "http://" + v
	}
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || bare && u.Port() == "" ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, errors.New("--proxy: want its address and nothing else, such as http://192.168.66.72:3128 or 192.168.66.72:3128")
	}
	return u, nil
}
