package config

import "container-registry-proxy/internal/oci"

// HostSet is the set of registries that are intercepted.
type HostSet struct{}

// Match reports whether a CONNECT to authority is intercepted.
func (s HostSet) Match(authority string) bool { return false }

// MatchPlain reports whether a plain HTTP request to authority is intercepted.
func (s HostSet) MatchPlain(authority string) bool { return false }

// Intercept returns the registry behind a CONNECT authority, if it is intercepted.
func (s HostSet) Intercept(authority string) (oci.Registry, bool) { return "", false }

// InterceptPlain returns the plain HTTP registry behind authority, if it is intercepted.
func (s HostSet) InterceptPlain(authority string) (oci.Registry, bool) { return "", false }

// Exact returns the hosts of the set that are named without a wildcard.
func (s HostSet) Exact() []string { return nil }

// Named reports whether host, without a port, is named by the configuration.
func (s HostSet) Named(host string) bool { return false }
