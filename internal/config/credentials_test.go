package config

import (
	"fmt"
	"strings"
	"testing"
)

// serviceAccount looks like what a cloud's registry takes for a password: JSON with colons, spaces, line ends and
// escaped ones.
const serviceAccount = `{
  "type": "service_account",
  "private_key": "-----BEGIN PRIVATE KEY-----\nMIIE:vQ==\n-----END PRIVATE KEY-----\n",
  "token_uri": "https://oauth2.test/token"
}`

func TestCredentials(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		environ []string
		want    string // host|user|password, a line each
	}{
		{"none", []string{"AUTH_REGISTRIES="}, ""},
		{"white space alone", []string{"AUTH_REGISTRIES= \n"}, ""},
		{"two", []string{"AUTH_REGISTRIES=quay.io:quay_username:quay_password your.own.registry:username:password"},
			"quay.io|quay_username|quay_password\nyour.own.registry|username|password\n"},
		{"on lines of their own", []string{"AUTH_REGISTRIES=\n  quay.io:a:b\n\tghcr.io:c:d\r\n"}, "quay.io|a|b\nghcr.io|c|d\n"},
		{"a password with colons", []string{"AUTH_REGISTRIES=quay.io:user:a:b::c:"}, "quay.io|user|a:b::c:\n"},
		{"a token host", []string{"AUTH_REGISTRIES=auth.docker.io:user:password"}, "auth.docker.io|user|password\n"},
		{"another case, the default port", []string{"AUTH_REGISTRIES=Quay.IO.:User:Pass"}, "quay.io|User|Pass\n"},
		{"the README's example for a JSON key", []string{
			"AUTH_REGISTRIES_DELIMITER=;;;", "AUTH_REGISTRY_DELIMITER=:::",
			"AUTH_REGISTRIES=gcr.io:::_json_key:::" + serviceAccount + ";;;quay.io:::quay_username:::quay_password",
		}, "gcr.io|_json_key|" + serviceAccount + "\nquay.io|quay_username|quay_password\n"},
		{"a JSON key with single colons between", []string{
			"AUTH_REGISTRIES_DELIMITER=;;;",
			"AUTH_REGISTRIES=gcr.io:_json_key:" + serviceAccount,
		}, "gcr.io|_json_key|" + serviceAccount + "\n"},
		{"a port needs another delimiter", []string{"AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES=reg.test:5000|user|pass"}, "reg.test:5000|user|pass\n"},
		{"white space at the end of a password", []string{"AUTH_REGISTRIES_DELIMITER=;;;", "AUTH_REGISTRIES=quay.io:u:p \n;;;\n ghcr.io:u: p"},
			"quay.io|u|p \n\nghcr.io|u| p\n"},
		{"empty entries", []string{"AUTH_REGISTRIES_DELIMITER=;;;", "AUTH_REGISTRIES=;;;quay.io:u:p;;;;;;"}, "quay.io|u|p\n"},
		{"empty delimiters are the default ones", []string{"AUTH_REGISTRIES_DELIMITER=", "AUTH_REGISTRY_DELIMITER=", "AUTH_REGISTRIES=quay.io:u:p"}, "quay.io|u|p\n"},
		{"the same one twice", []string{"AUTH_REGISTRIES=quay.io:u:p quay.io:u:p"}, "quay.io|u|p\nquay.io|u|p\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got strings.Builder
			for _, c := range mustLoad(t, machine{}, tt.environ...).Credentials {
				fmt.Fprintf(&got, "%s|%s|%s\n", c.Host, c.Username, c.Password.Reveal())
			}
			if got.String() != tt.want {
				t.Errorf("credentials\n%q, want\n%q", got.String(), tt.want)
			}
		})
	}
}

// Messages about credentials never repeat a piece of them, whatever went wrong with the delimiters.
func TestBadCredentialsAreNamedWithoutBeingShown(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, entries, want string }{
		{"no password", "quay.io:canaryuser", "entry 1: want host:user:password"},
		{"empty password", "quay.io:canaryuser:", "entry 1: no password"},
		{"no user", "quay.io::canary", "entry 1: no user name"},
		{"a space in the password", "quay.io:user:pass canary:word", "entry 2: want host:user:password: a password with spaces needs another delimiter"},
		{"no host", "canary!:user:password", "entry 1: the host is not host[:port]"},
		{"a wildcard", "*.canary.test:user:password", "entry 1: the host is not host[:port] of one registry"},
		{"a URL", "https://quay.io:canary:password", "entry 1: the host is not host[:port]"},
		{"two for one host", "quay.io:user:canary1 quay.io:user:canary2", "quay.io has two different credentials"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := loadAt(machine{}, "AUTH_REGISTRIES="+tt.entries)
			if err == nil {
				t.Fatalf("accepted: %v", cfg.Credentials)
			}
			if problems := problemsOf(t, err); !strings.Contains(problems[0], tt.want) || !strings.HasPrefix(problems[0], "AUTH_REGISTRIES") {
				t.Errorf("problem %q, want one with %q", problems[0], tt.want)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("shows what may be secret: %v", err)
			}
		})
	}
}

func TestAPasswordIsNotPrinted(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, machine{}, "AUTH_REGISTRIES=quay.io:user:canary")
	if printed := fmt.Sprintf("%v %+v %#v", cfg.Credentials, *cfg, cfg.Credentials); strings.Contains(printed, "canary") {
		t.Errorf("printed: %s", printed)
	}
}

func FuzzCredentials(f *testing.F) {
	f.Add("gcr.io:::_json_key:::"+serviceAccount+";;;quay.io:::u:::p", ";;;", ":::")
	f.Add("quay.io:u:p a:b:c", " ", ":")
	f.Add(":::", ":", ":")
	f.Fuzz(func(t *testing.T, text, entryDelimiter, partDelimiter string) {
		if entryDelimiter == "" || partDelimiter == "" {
			return
		}
		list, problems := parseCredentials(text, entryDelimiter, partDelimiter)
		if entries := splitEntries(text, entryDelimiter); len(list)+len(problems) != len(entries) {
			t.Fatalf("%d entries gave %d credentials and %d problems", len(entries), len(list), len(problems))
		}
		for _, c := range list {
			if c.Host == "" || c.Username == "" || c.Password.Empty() || !strings.Contains(text, partDelimiter+c.Password.Reveal()) {
				t.Fatalf("credential %+v of %q", c, text)
			}
		}
	})
}
