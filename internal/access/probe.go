package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// probe asks the registry, as nobody in particular, for what p names, and returns nil if the repository is open. While
// the registry cannot say, its last answer stands; if it hangs, after a moment.
func (a *Access) probe(ctx context.Context, g Grant, p oci.Path) error {
	last, known := a.cfg.Metadata.Open(g.Registry, g.Repository)
	nobody := Grant{Registry: g.Registry, Repository: g.Repository, spurned: g.spurned}
	err := a.standing(ctx, g.Registry, known && last.Open, func(ctx context.Context) error {
		return a.share(ctx, fmt.Sprintf("open %t %q %q", g.spurned, g.Registry, p.String()), func(ctx context.Context) error {
			return a.seek(ctx, nobody, p.String())
		})
	})
	if last, _ := a.cfg.Metadata.Open(g.Registry, g.Repository); missing(err) && a.kept(g, last) {
		return nil
	}
	return err
}

// isOpen is probe for a caller with a login of its own: where the registry has just been seen to be in trouble, or
// that login will do as long as it is, nobody waits long for an answer.
func (a *Access) isOpen(ctx context.Context, g Grant, p oci.Path) bool {
	last, known := a.cfg.Metadata.Open(g.Registry, g.Repository)
	if a.Unreachable(g.Registry) {
		return known && last.Open
	}
	if a.accepted(g, outageGrace) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, a.cfg.GiveUp, ErrHangs)
		defer cancel()
	}
	return a.hung(g.Registry, a.probe(ctx, g, p)) == nil
}

// confirmCentral asks the registry, with the operator's credentials, for what p names, unless it has lately shown
// something of the repository to them: that there are credentials does not say that they open it.
func (a *Access) confirmCentral(ctx context.Context, g Grant, p oci.Path) error {
	last, known := a.cfg.Metadata.Reached(g.Registry, g.Repository)
	if known && (last.Open || a.kept(g, last)) && a.recent(last) {
		return nil
	}
	err := a.standing(ctx, g.Registry, known && last.Open, func(ctx context.Context) error {
		return a.share(ctx, fmt.Sprintf("central %q %q", g.Registry, p.String()), func(ctx context.Context) error {
			return a.seekCentral(ctx, g, p.String())
		})
	})
	if last, _ := a.cfg.Metadata.Reached(g.Registry, g.Repository); missing(err) && a.kept(g, last) {
		return nil
	}
	return err
}

// standing asks a question whose last answer, if it was yes, stands while the registry cannot say; if it hangs, after a
// moment.
func (a *Access) standing(ctx context.Context, reg oci.Registry, yes bool, question func(context.Context) error) error {
	down := a.Unreachable(reg)
	if yes && (down || a.Resting(reg)) {
		return nil
	}
	within, cancel := ctx, context.CancelFunc(func() {})
	if yes || down {
		within, cancel = context.WithTimeoutCause(ctx, a.cfg.GiveUp, ErrHangs)
	}
	defer cancel()
	err := a.hung(reg, question(within))
	if yes && ctx.Err() == nil && !final(err) {
		return nil
	}
	return err
}

// hung has a registry left alone that was waited for in vain, and says so.
func (a *Access) hung(reg oci.Registry, err error) error {
	if !errors.Is(err, ErrHangs) {
		return err
	}
	a.Hung(reg)
	return &upstream.UnreachableError{Registry: reg, Err: err}
}

// seek finds out whether the repository is open and remembers the answer. Where what is asked for is not there, it may
// have been deleted from a repository that is open: what showed that last is asked for too.
func (a *Access) seek(ctx context.Context, nobody Grant, path string) error {
	err := a.ask(ctx, nobody, nobody.Repository, path)
	last, _ := a.cfg.Metadata.Open(nobody.Registry, nobody.Repository)
	if missing(err) && last.Open && last.Witness != "" && last.Witness != path {
		path = last.Witness
		err = a.ask(ctx, nobody, nobody.Repository, path)
	}
	switch {
	case err == nil:
		a.rememberOpen(nobody, path)
	case final(err):
		a.cfg.Metadata.PutOpen(nobody.Registry, nobody.Repository, metadata.OpenAnswer{
			At: a.cfg.Now(), Missing: missing(err), WasOpen: missing(err) && (last.Open || last.WasOpen),
		})
	}
	return err
}

// rememberOpen records that the registry has shown what is at path to nobody in particular, unless that was shown a
// short while ago.
func (a *Access) rememberOpen(g Grant, path string) {
	last, known := a.cfg.Metadata.Open(g.Registry, g.Repository)
	if known && a.justShown(last) {
		return
	}
	a.cfg.Metadata.PutOpen(g.Registry, g.Repository, metadata.OpenAnswer{Open: true, At: a.cfg.Now(), Witness: path})
}

// seekCentral finds out whether the operator's credentials open the repository and remembers the answer, as seek does.
func (a *Access) seekCentral(ctx context.Context, g Grant, path string) error {
	err := a.ask(ctx, g, g.Repository, path, http.StatusForbidden)
	last, _ := a.cfg.Metadata.Reached(g.Registry, g.Repository)
	if missing(err) && last.Open && last.Witness != "" && last.Witness != path {
		path = last.Witness
		err = a.ask(ctx, g, g.Repository, path, http.StatusForbidden)
	}
	switch {
	case err == nil:
		a.rememberCentral(g, path)
	case final(err):
		a.cfg.Metadata.PutReached(g.Registry, g.Repository, metadata.OpenAnswer{
			At: a.cfg.Now(), Missing: missing(err), WasOpen: missing(err) && (last.Open || last.WasOpen),
		})
	}
	return err
}

// rememberCentral is rememberOpen for the operator's credentials.
func (a *Access) rememberCentral(g Grant, path string) {
	last, known := a.cfg.Metadata.Reached(g.Registry, g.Repository)
	if known && a.justShown(last) {
		return
	}
	a.cfg.Metadata.PutReached(g.Registry, g.Repository, metadata.OpenAnswer{Open: true, At: a.cfg.Now(), Witness: path})
}

// justShown reports whether an answer need not be written down again.
func (a *Access) justShown(last metadata.OpenAnswer) bool {
	age := a.cfg.Now().Sub(last.At)
	return last.Open && age >= 0 && age < openFor/10
}

// final reports whether an error is the registry's word on what was asked for, not on its own trouble.
func final(err error) bool {
	if _, ok := errors.AsType[*SpurnedError](err); ok {
		return true
	}
	refusal, ok := errors.AsType[*upstream.Refusal](err)
	return ok && !refusal.Temporary()
}

func missing(err error) bool {
	if spurned, ok := errors.AsType[*SpurnedError](err); ok {
		return spurned.Status == http.StatusNotFound
	}
	refusal, ok := errors.AsType[*upstream.Refusal](err)
	return ok && refusal.Status == http.StatusNotFound
}

// share answers a question once for all who ask it at the same time. One that leaves does not end it.
func (a *Access) share(ctx context.Context, key string, question func(context.Context) error) error {
	result := a.questions.DoChan(key, func() (_ any, err error) {
		defer func() {
			if p := recover(); p != nil { // singleflight would end the process
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				a.cfg.Log.Error("panic in a question to a registry", "err", err)
			}
		}()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
		defer cancel()
		return nil, question(ctx)
	})
	select {
	case r := <-result:
		return r.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ask sends one HEAD for what is at path and returns nil for a 2xx or a redirect, which is not followed. A registry that
// does not answer a HEAD, or answers it with one of the odd statuses, is asked with a GET, whose body is not read.
func (a *Access) ask(ctx context.Context, g Grant, repository, path string, odd ...int) error {
	err := a.request(ctx, http.MethodHead, g, repository, path)
	refusal, ok := errors.AsType[*upstream.Refusal](err)
	if !ok {
		return err
	}
	for _, status := range append(odd, http.StatusMethodNotAllowed, http.StatusNotImplemented) {
		if refusal.Status == status {
			return a.request(ctx, http.MethodGet, g, repository, path)
		}
	}
	return err
}

// accepted are the manifests that there are. A registry that converts what a client does not name must not take the
// question for a wish.
const accepted = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
	"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*"

func (a *Access) request(ctx context.Context, method string, g Grant, repository, path string) error {
	resp, err := a.cfg.Registries.Do(ctx, upstream.Request{
		Method: method, Registry: g.Registry, Path: path, Scope: auth.PullScope(repository), As: g.As,
		Header:   http.Header{"Accept": {accepted}},
		NoFollow: true,
	})
	if err != nil {
		return err
	}
	if resp.StatusCode >= 400 || resp.StatusCode < 200 {
		return g.Refusal(resp)
	}
	return resp.Body.Close()
}
