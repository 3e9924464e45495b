package credential

import "container-registry-proxy/internal/oci"

// ParseHelper is parseHelper.
func ParseHelper(text []byte) (Login, error) { return parseHelper(text) }

// ConfigLogin is the first login that a config.json itself has for a repository, if it is one at all.
func ConfigLogin(content []byte, host oci.Registry, repository string) (Login, bool) {
	cfg, err := parseConfig(content)
	if err != nil {
		return Login{}, false
	}
	for _, c := range cfg.candidates(nil, host, repository, "config.json") {
		if c.call.program == "" {
			return c.login, true
		}
		if !validProgram(c.call.program) {
			panic("a config.json names the helper " + c.call.program)
		}
	}
	return Login{}, false
}
