package config

import (
	"errors"
	"fmt"
	"strings"

	"container-registry-proxy/internal/secret"
)

const (
	envCredentials        = "AUTH_REGISTRIES"
	envAuthConfigFile     = "AUTH_CONFIG_FILE"
	envEntryDelimiter     = "AUTH_REGISTRIES_DELIMITER"
	envPartDelimiter      = "AUTH_REGISTRY_DELIMITER"
	defaultEntryDelimiter = " "
	defaultPartDelimiter  = ":"
)

// parseCredentials reads AUTH_REGISTRIES: entries between one delimiter, each of host, user name and password between the
// other. Everything behind the second delimiter is the password, byte for byte. Problems name an entry by its number
// only, since what looks like a host may be a piece of a password.
func parseCredentials(text, entryDelimiter, partDelimiter string) (list []Credential, problems []string) {
	for i, entry := range splitEntries(text, entryDelimiter) {
		name := fmt.Sprintf("%s, entry %d", envCredentials, i+1)
		host, rest, found := strings.Cut(entry, partDelimiter)
		username, password, again := strings.Cut(rest, partDelimiter)
		if !found || !again {
			problems = append(problems, fmt.Sprintf("%s: want host%[2]suser%[2]spassword: %s", name, partDelimiter, delimiterHint(entryDelimiter)))
			continue
		}
		c, err := newCredential(strings.TrimFunc(host, isSpace), username, password)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		c.Name = name
		list = append(list, c)
	}
	return list, problems
}

// delimiterHint guesses why an entry is not one.
func delimiterHint(entryDelimiter string) string {
	if entryDelimiter == defaultEntryDelimiter {
		return "a password with spaces needs another delimiter between entries, such as " + envEntryDelimiter + "=;;;"
	}
	return fmt.Sprintf("between entries is %s, by %s", show(entryDelimiter), envEntryDelimiter)
}

// splitEntries splits at the delimiter, and at line ends and tabs too where it is the default: with the default no
// password can hold a space, so any white space is as good as any other. Empty entries are none.
func splitEntries(text, delimiter string) []string {
	if delimiter == defaultEntryDelimiter {
		return strings.FieldsFunc(text, isSpace)
	}
	var entries []string
	for entry := range strings.SplitSeq(text, delimiter) {
		if strings.TrimFunc(entry, isSpace) != "" {
			entries = append(entries, entry)
		}
	}
	return entries
}

// newCredential checks the parts of one credential. Its errors show neither user name nor password, nor a host that
// may be part of one.
func newCredential(host, username, password string) (Credential, error) {
	name, port, err := splitAuthority(host)
	switch {
	case err != nil, strings.HasPrefix(username, "//"): // https://quay.io has the host "https"
		return Credential{}, errors.New("the host is not host[:port] of one registry or token service, such as quay.io")
	case username == "":
		return Credential{}, errors.New("no user name: want host, user name and password")
	case strings.Contains(username, ":"):
		return Credential{}, errors.New("the user name has a colon, which HTTP Basic cannot carry")
	case password == "":
		return Credential{}, errors.New("no password: want host, user name and password")
	}
	if port == "443" {
		port = ""
	}
	return Credential{Host: hostPort{name, port}.String(), Username: username, Password: secret.New(password)}, nil
}
