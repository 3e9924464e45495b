package dial

import "strings"

// CheckAddress refuses an address, a "host:port", that a proxy beyond this machine must not be asked to reach for us. Such
// a proxy looks names up by itself, so a name is refused only where it says that it means the machine itself; an address
// is judged as for [Dialer.DialContext]. The error matches [*RefusedError].
func (d *Dialer) CheckAddress(address string) error {
	t, err := parseTarget(address)
	if err != nil {
		return err
	}
	named := d.cfg.Named != nil && d.cfg.Named(t.host)
	if !t.addr.IsValid() {
		if !named && (t.host == "localhost" || strings.HasSuffix(t.host, ".localhost")) {
			return &RefusedError{Address: quote(address), Reason: loopback.String(), Setting: settingsOfHost}
		}
		return nil
	}
	mine, err := d.mine.addresses()
	if err != nil {
		return err
	}
	v := vetter{cfg: &d.cfg, mine: mine, named: named}
	return v.vet(t, t.addr)
}
