package e2e

import (
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// outage is a way in which a registry cannot be had. In each its token service is gone too.
type outage struct {
	name string
	set  func(*registrytest.Faults)
}

// outages come in this order: one that hangs is left alone for a while, so what follows it costs no wait.
func outages() []outage {
	gone := func(registry registrytest.Outage) func(*registrytest.Faults) {
		return func(f *registrytest.Faults) { f.Registry, f.Token = registry, registrytest.Outage{Down: true} }
	}
	return []outage{
		{"its token service is gone", gone(registrytest.Outage{})},
		{"it answers 503", gone(registrytest.Outage{Status: 503})},
		{"it resets connections", gone(registrytest.Outage{Down: true})},
		{"it hangs once asked", gone(registrytest.Outage{Hang: true})},
		{"it hangs once connected", gone(registrytest.Outage{HangAccept: true})},
	}
}

// pullDuringOutages pulls what is cached while its registry cannot be had, in each way, from the running proxy and from
// one that has been started since.
func pullDuringOutages(t *testing.T, c client, p *proxy, o origin, fake *registrytest.Registry) {
	t.Helper()
	for _, restarted := range []string{"", ", after a restart"} {
		if restarted != "" {
			p.restart()
		}
		for _, out := range outages() {
			t.Run(out.name+restarted, func(t *testing.T) {
				c.wipe(t, o.reference())
				fake.RevokeTokens()
				fake.Set(out.set)
				asked, start := o.blobGETs(), time.Now()
				pullOnce(t, c, o)
				t.Logf("the pull took %v", time.Since(start).Round(10*time.Millisecond))
				if got := o.blobGETs() - asked; got != 0 {
					t.Errorf("the registry saw %d GETs of blobs", got)
				}
			})
		}
	}
	fake.Set(func(f *registrytest.Faults) { f.Registry, f.Token = registrytest.Outage{}, registrytest.Outage{} })
}
