package access

import "container-registry-proxy/internal/metadata"

// kept reports whether a repository counts as open although its registry shows nothing of it any more: it was open until
// what was asked for went missing, and the operator wants that to be kept. Only a 404 is such an end. A registry that
// refuses has changed its mind about who may have it, and is obeyed.
func (a *Access) kept(g Grant, last metadata.OpenAnswer) bool {
	return last.Missing && last.WasOpen && a.cfg.Keeps != nil && a.cfg.Keeps(g.Registry, g.Repository)
}
