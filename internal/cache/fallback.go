package cache

import (
	"context"
	"errors"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/upstream"
)

// orFallBack answers a pull and, where its registry cannot, from those that stand in for it, in turn; if none of them can
// either, what the registry said stands. A pull from a fallback is one in its own right: what it shows, and to whom, is
// known of the fallback and never of the registry, and nothing of the client's login goes there.
func (c *Cache) orFallBack(ctx context.Context, p Pull, pull func(context.Context, Pull) (*Content, error)) (*Content, error) {
	content, err := pull(ctx, p)
	if err == nil || c.cfg.Fallbacks == nil || ctx.Err() != nil || !unable(err) {
		return content, err
	}
	for _, other := range c.cfg.Fallbacks(p.Registry) {
		instead := p
		instead.Registry, instead.Caller = other, access.Caller{}
		content, otherErr := pull(ctx, instead)
		if otherErr == nil {
			c.fallbacks.Inc()
			return content, nil
		}
		c.cfg.Log.Debug("fallback does not deliver", "registry", p.Registry, "fallback", other, "err", otherErr)
	}
	if errors.Is(err, upstream.ErrRests) { // it has not been asked yet
		p.insist = true
		return pull(upstream.Insist(ctx), p)
	}
	return nil, err
}

// unable reports whether a registry cannot answer at present: it is down, or has had too many requests.
func unable(err error) bool {
	if refusal, ok := errors.AsType[*upstream.Refusal](err); ok {
		return refusal.Temporary()
	}
	_, unreachable := errors.AsType[*upstream.UnreachableError](err)
	return unreachable
}
