package auth

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChallengesAreRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		lines []string
		want  []string // "scheme name=value …", names sorted
	}{
		{"nothing", nil, nil},
		{"an empty line", []string{""}, nil},
		{"Docker Hub", []string{`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"`},
			[]string{"bearer realm=https://auth.docker.io/token scope=repository:library/alpine:pull service=registry.docker.io"}},
		{"a comma in a quoted scope", []string{`Bearer realm="r",scope="repository:a/b:pull,push",service="s"`}, []string{"bearer realm=r scope=repository:a/b:pull,push service=s"}},
		{"GHCR with spaces", []string{`Bearer realm="https://ghcr.io/token", service="ghcr.io", scope="repository:user/image:pull"`},
			[]string{"bearer realm=https://ghcr.io/token scope=repository:user/image:pull service=ghcr.io"}},
		{"ECR", []string{`Basic realm="https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com"`},
			[]string{"basic realm=https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/ service=ecr.amazonaws.com"}},
		{"two challenges in two lines", []string{`Basic realm="a"`, `Bearer realm="b"`}, []string{"basic realm=a", "bearer realm=b"}},
		{"two challenges in one line", []string{`Basic realm="a", Bearer realm="b",service="s"`}, []string{"basic realm=a", "bearer realm=b service=s"}},
		{"Negotiate before and after", []string{`Negotiate, Bearer realm="b", NTLM`}, []string{"negotiate", "bearer realm=b", "ntlm"}},
		{"Negotiate with a token68", []string{`Negotiate YII/abc+d==, Basic realm="a"`}, []string{"negotiate", "basic realm=a"}},
		{"a token68 without padding", []string{`Negotiate YIIabc, Basic realm="a"`}, []string{"negotiate", "basic realm=a"}},
		{"Digest with flags", []string{`Digest realm="d", nonce="n", algorithm=MD5, qop="auth", Basic realm="a"`}, []string{"digest algorithm=MD5 nonce=n qop=auth realm=d", "basic realm=a"}},
		{"case", []string{`BEARER REALM="b",Service="s"`}, []string{"bearer realm=b service=s"}},
		{"unquoted values", []string{`Bearer realm=https://auth.example/token?x=1,service=reg.example`}, []string{"bearer realm=https://auth.example/token?x=1 service=reg.example"}},
		{"space around the equals sign", []string{`Bearer realm = "b" , service= "s" ,scope ="c"`}, []string{"bearer realm=b scope=c service=s"}},
		{"quoted pairs", []string{`Basic realm="a \"quoted\" \\ name\,"`}, []string{`basic realm=a "quoted" \ name,`}},
		{"a quote that never ends", []string{`Bearer realm="b, Basic realm=a`}, []string{"bearer realm=b, Basic realm=a"}},
		{"a backslash at the end", []string{`Bearer realm="b\`}, []string{`bearer realm=b\`}},
		{"no comma between challenges", []string{`Bearer realm="b" Basic realm="a"`}, []string{"bearer realm=b", "basic realm=a"}},
		{"commas to spare", []string{`, ,Bearer ,realm="b",,service="s",`}, []string{"bearer realm=b service=s"}},
		{"the first of two realms counts", []string{`Bearer realm="good",realm="evil"`}, []string{"bearer realm=good"}},
		{"parameters without a scheme", []string{`realm="b",service="s"`}, nil},
		{"parameters do not cross lines", []string{`Bearer realm="b"`, `service="s"`}, []string{"bearer realm=b"}},
		{"unknown parameters", []string{`Bearer realm="b",error="invalid_token",error_description="the token expired, sorry",x=y`},
			[]string{"bearer error=invalid_token error_description=the token expired, sorry realm=b x=y"}},
		{"a bare scheme", []string{`Basic`}, []string{"basic"}},
		{"tabs", []string{"Bearer\trealm=\"b\",\tservice=\"s\""}, []string{"bearer realm=b service=s"}},
		{"an empty value", []string{`Bearer realm="",service=,scope=x`}, []string{"bearer realm= scope=x service="}},
		{"rubbish", []string{`"?= ;;{}`, `Bearer realm="b"`}, []string{"bearer realm=b"}},
	} {
		got := spell(parseChallenges(http.Header{"Www-Authenticate": tt.lines}))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %q (-want +got):\n%s", tt.name, tt.lines, diff)
		}
	}
}

func spell(challenges []challenge) []string {
	var out []string
	for _, c := range challenges {
		s := c.scheme
		for _, name := range slices.Sorted(maps.Keys(c.parameters)) {
			s += fmt.Sprintf(" %s=%s", name, c.parameters[name])
		}
		out = append(out, s)
	}
	return out
}

// Reading ends, stays within its limits, and finds again what it found when that is written as the specification says.
func FuzzParseChallenges(f *testing.F) {
	for _, s := range []string{`Bearer realm="https://a/token",service="s",scope="repository:a:pull,push"`, `Negotiate abc==, Basic realm=x`, `Basic realm="a\"b`, `,=,"`, "a=b c =d,e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		found := parseChallenges(http.Header{"Www-Authenticate": {line}})
		if len(found) > maxChallenges {
			t.Fatalf("%d challenges", len(found))
		}
		var again []string
		for _, c := range found {
			if c.scheme == "" || len(c.parameters) > maxParameters {
				t.Fatalf("scheme %q with %d parameters", c.scheme, len(c.parameters))
			}
			s := c.scheme
			for i, name := range slices.Sorted(maps.Keys(c.parameters)) {
				s += [...]string{" ", ","}[min(i, 1)] + name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(c.parameters[name]) + `"`
			}
			again = append(again, s)
		}
		if diff := cmp.Diff(spell(found), spell(parseChallenges(http.Header{"Www-Authenticate": again}))); diff != "" {
			t.Fatalf("%q read again as %q:\n%s", line, again, diff)
		}
	})
}
