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
	wasOpen := known && last.Open
	if wasOpen && a.Resting(g.Registry) {
		return nil
	}
	within, cancel := ctx, context.CancelFunc(func() {})
	if wasOpen {
		within, cancel = context.WithTimeoutCause(ctx, a.cfg.GiveUp, errHangs)
	}
	defer cancel()
	nobody := Grant{Registry: g.Registry, Repository: g.Repository}
	err := a.share(within, fmt.Sprintf("open %q %q", g.Registry, p.String()), func(ctx context.Context) error {
		return a.seek(ctx, nobody, p.String())
	})
	if errors.Is(err, errHangs) {
		a.Rest(g.Registry, RestAfterHang)
	}
	if wasOpen && ctx.Err() == nil && !final(err) {
		return nil
	}
	if last, _ := a.cfg.Metadata.Open(g.Registry, g.Repository); missing(err) && a.kept(g, last) {
		return nil
	}
	return err
}

// errHangs is why a caller stops waiting for a registry whose last answer will do.
var errHangs = errors.New("the registry hangs")

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
	if age := a.cfg.Now().Sub(last.At); known && last.Open && age >= 0 && age < openFor/10 {
		return
	}
	a.cfg.Metadata.PutOpen(g.Registry, g.Repository, metadata.OpenAnswer{Open: true, At: a.cfg.Now(), Witness: path})
}

// final reports whether an error is the registry's word on what was asked for, not on its own trouble.
func final(err error) bool {
	refusal, ok := errors.AsType[*upstream.Refusal](err)
	return ok && !refusal.Temporary()
}

func missing(err error) bool {
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
