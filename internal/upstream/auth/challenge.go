package auth

import (
	"net/http"
	"strings"
)

// Limits of what is read of a registry's challenges. Real ones have one or two of at most six parameters.
const (
	maxChallengeBytes = 64 << 10
	maxChallenges     = 16
	maxParameters     = 32
)

// challenge is one of a WWW-Authenticate header (RFC 9110, section 11.3). Scheme and parameter names are lower case.
type challenge struct {
	scheme     string
	parameters map[string]string
}

// parseChallenges reads the challenges of all WWW-Authenticate lines, in order, and takes what registries write:
//
//	Bearer realm="https://auth.example/token",service="reg.example",scope="repository:a/b:pull,push"
//	Negotiate, basic realm = plain, Bearer realm="a \"quoted\" name"
//
// What is not understood is left out; nothing is an error. Of a parameter that comes twice the first counts.
func parseChallenges(header http.Header) []challenge {
	var p challengeParser
	for _, line := range header.Values("WWW-Authenticate") {
		if len(line) > maxChallengeBytes {
			continue
		}
		p.parse(line)
	}
	return p.found
}

type challengeParser struct {
	rest  string
	found []challenge
	// open is set between a scheme and the next comma: a word there that is no parameter is a token68.
	open bool
}

// parse reads one header line. A parameter before any scheme of the line belongs to none.
func (p *challengeParser) parse(line string) {
	p.rest, p.open = line, false
	started := false
	for {
		p.skip(" \t")
		if p.rest == "" {
			return
		}
		if p.rest[0] == ',' {
			p.rest, p.open = p.rest[1:], false
			continue
		}
		word := p.word()
		if word == "" {
			p.value() // a stray quoted string or sign: step over it
			continue
		}
		if p.equals() {
			if value := p.value(); started {
				p.add(strings.ToLower(word), value)
			}
			continue
		}
		if p.open && p.endsElement() {
			p.open = false
			continue
		}
		if len(p.found) == maxChallenges {
			return
		}
		p.found = append(p.found, challenge{scheme: strings.ToLower(word), parameters: map[string]string{}})
		started, p.open = true, true
	}
}

func (p *challengeParser) add(name, value string) {
	p.open = false
	parameters := p.found[len(p.found)-1].parameters
	if _, twice := parameters[name]; !twice && len(parameters) < maxParameters {
		parameters[name] = value
	}
}

func (p *challengeParser) skip(set string) { p.rest = strings.TrimLeft(p.rest, set) }

// word takes characters of a token or a token68.
func (p *challengeParser) word() string {
	n := strings.IndexFunc(p.rest, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),:;<=>?@[\]{}`, r)
	})
	if n < 0 {
		n = len(p.rest)
	}
	word := p.rest[:n]
	p.rest = p.rest[n:]
	return word
}

// equals takes an equals sign with the space around it. The padding of a token68 is none.
func (p *challengeParser) equals() bool {
	trimmed := strings.TrimLeft(p.rest, " \t")
	if !strings.HasPrefix(trimmed, "=") {
		return false
	}
	if after := strings.TrimLeft(trimmed, "="); p.open && (after == "" || strings.HasPrefix(strings.TrimLeft(after, " \t"), ",")) {
		p.rest = after
		return false
	}
	p.rest = strings.TrimLeft(trimmed[1:], " \t")
	return true
}

func (p *challengeParser) endsElement() bool {
	trimmed := strings.TrimLeft(p.rest, " \t")
	return trimmed == "" || trimmed[0] == ','
}

// value takes a quoted string, or everything up to a comma or space. A quote that is never closed ends with the line.
func (p *challengeParser) value() string {
	if !strings.HasPrefix(p.rest, `"`) {
		n := strings.IndexAny(p.rest, ", \t")
		if n < 0 {
			n = len(p.rest)
		}
		if n == 0 && p.rest != "" && p.rest[0] != ',' {
			n = 1
		}
		value := p.rest[:n]
		p.rest = p.rest[n:]
		return value
	}
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return b.String()
		case c == '\\' && i+1 < len(p.rest):
			i++
			b.WriteByte(p.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	p.rest = ""
	return b.String()
}

// OnlyBasic returns the challenges of WWW-Authenticate lines that a login answers by itself, if there is no other way to
// answer them.
func OnlyBasic(lines []string) []string {
	challenges := parseChallenges(http.Header{"Www-Authenticate": lines})
	var basic []string
	for _, c := range challenges {
		if c.scheme == "bearer" {
			return nil
		}
		if c.scheme == "basic" {
			basic = append(basic, c.String())
		}
	}
	return basic
}

// ForScope returns the challenges of WWW-Authenticate lines with another scope for tokens.
func ForScope(lines []string, scope Scope) []string {
	var out []string
	for _, c := range parseChallenges(http.Header{"Www-Authenticate": lines}) {
		if c.scheme == "bearer" {
			c.parameters["scope"] = string(scope)
		}
		out = append(out, c.String())
	}
	return out
}

// String spells the challenge as a header has it, with the parameters that the two schemes know.
func (c challenge) String() string {
	var parameters []string
	for _, name := range []string{"realm", "service", "scope"} {
		if value, ok := c.parameters[name]; ok {
			quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value)
			parameters = append(parameters, name+`="`+quoted+`"`)
		}
	}
	return strings.ToUpper(c.scheme[:1]) + c.scheme[1:] + " " + strings.Join(parameters, ",")
}
