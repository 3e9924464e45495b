package setup

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// Options are what a script can be asked for. The zero value has a client use the proxy as HTTPS_PROXY, for everything.
type Options struct {
	// Mirror has the client know the proxy as a mirror, so that it need not trust the proxy's authority.
	Mirror bool
	// NoProxy is what the client reaches without the proxy, such as "10.0.0.0/8,.svc": NO_PROXY's addresses, networks
	// and domains, separated by commas.
	NoProxy string
}

// domain is a name, or what names end in: nothing in it means anything to a shell, to sed or to systemd.
var domain = regexp.MustCompile(`^\.?[a-z0-9_](?:[a-z0-9._-]{0,252})(?::[0-9]{1,5})?$`)

// maxNoProxy bounds the list in bytes: it becomes one environment variable.
const maxNoProxy = 4 << 10

// NewOptions checks what somebody asked for in words, such as "mirror" and "10.0.0.0/8, .svc".
func NewOptions(mode, noProxy string) (Options, error) {
	var o Options
	switch mode {
	case "", "intercept":
	case "mirror":
		o.Mirror = true
	default:
		return Options{}, errors.New("mode: want mirror, or intercept, which is the default")
	}
	if noProxy == "" {
		return o, nil
	}
	if o.Mirror {
		return Options{}, errors.New("no_proxy: means nothing with mode=mirror, where clients use no HTTPS_PROXY: leave it away")
	}
	if len(noProxy) > maxNoProxy {
		return Options{}, fmt.Errorf("no_proxy: want at most %d bytes", maxNoProxy)
	}
	var entries []string
	for _, entry := range strings.Split(strings.ToLower(noProxy), ",") {
		entry = strings.Trim(entry, " ")
		if !isNoProxy(entry) {
			return Options{}, errors.New("no_proxy: want addresses, networks and domains with commas between them, such as 10.0.0.0/8,192.168.1.7,.svc")
		}
		entries = append(entries, entry)
	}
	o.NoProxy = strings.Join(entries, ",")
	return o, nil
}

func isNoProxy(entry string) bool {
	if _, err := netip.ParsePrefix(entry); err == nil {
		return true
	}
	if ip, err := netip.ParseAddr(entry); err == nil {
		return ip.Zone() == ""
	}
	return domain.MatchString(entry)
}

// parseOptions reads a query. It repeats nothing of it in an error.
func parseOptions(raw string) (Options, error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return Options{}, errors.New("the query cannot be read: want ?mode=mirror or ?no_proxy=10.0.0.0/8,.svc")
	}
	for name, values := range query {
		if name != "mode" && name != "no_proxy" {
			return Options{}, errors.New("the query has a parameter that is none of a script: want mode or no_proxy")
		}
		if len(values) > 1 {
			return Options{}, fmt.Errorf("%s: is there more than once", name)
		}
	}
	return NewOptions(query.Get("mode"), query.Get("no_proxy"))
}
