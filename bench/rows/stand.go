package rows

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"container-registry-proxy/bench/load"
	"container-registry-proxy/bench/peer"
)

// The columns: what is compared.
const (
	Ours        = "ours"
	Before      = "before" // another build of ours
	Relay       = "nginx-relay"
	Nginx       = "nginx-tls"
	NginxECDSA  = "nginx-tls-ecdsa"
	Sendfile    = "nginx-sendfile"
	Distributed = "distribution"
	Direct      = "origin"
	Limit       = "limit"
	LimitSums   = "limit-sums"
	LimitHTTP   = "limit-http"
)

// The ways in which ours can be used. Where a peer has but one, that is taken.
const (
	intercepted = "intercepted"
	mirrored    = "mirrored"
	tunnelled   = "tunnelled"
)

// Config says what is compared.
type Config struct {
	Dir    string // for everything that is written; it is empty
	Tools  peer.Tools
	Ours   string // program
	Before string // program; "" means none
	Scale  Scale
	// Columns are those to measure; empty means all.
	Columns []string
	// Profiles is a directory that gets a CPU profile of ours for each row; "" means none.
	Profiles string
}

// Stand is all the programs that are compared, running.
type Stand struct {
	Scale  Scale
	Origin *peer.Origin
	cfg    Config
	certs  *peer.Certificates
	ours   *peer.Ours
	before *peer.Ours
	nginx  *peer.Nginx
	secure *peer.Distribution
	plain  *peer.Distribution
	limit  *peer.Limit
	absent map[string]string // columns that there are none of, and why
}

// blobSize is that of the blob that hits are measured with.
const blobSize = 64 << 20

// NewStand starts the programs. What is not there is left out; what does not start is an error.
func NewStand(ctx context.Context, cfg Config) (s *Stand, err error) {
	s = &Stand{Scale: cfg.Scale, cfg: cfg, absent: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.certs, err = peer.NewCertificates(cfg.Dir); err != nil {
		return s, err
	}
	if s.Origin, err = peer.StartOrigin(ctx, cfg.Dir, s.certs); err != nil {
		return s, err
	}
	if s.ours, err = s.startOurs(ctx, cfg.Ours, Ours); err != nil {
		return s, err
	}
	s.absent[Before] = "no other build is named"
	if cfg.Before != "" {
		delete(s.absent, Before)
		if s.before, err = s.startOurs(ctx, cfg.Before, Before); err != nil {
			return s, err
		}
	}
	if s.limit, err = peer.StartLimit(ctx, cfg.Dir, s.certs, s.Origin, blobSize); err != nil {
		return s, err
	}
	return s, s.startOthers(ctx)
}

func (s *Stand) startOthers(ctx context.Context) (err error) {
	if why := s.cfg.Tools.NginxErr; why != nil {
		for _, column := range []string{Relay, Nginx, NginxECDSA, Sendfile} {
			s.absent[column] = why.Error()
		}
	} else if s.nginx, err = peer.StartNginx(ctx, s.cfg.Tools, s.cfg.Dir, s.certs, s.Origin); err != nil {
		return err
	}
	if why := s.cfg.Tools.RegistryErr; why != nil {
		s.absent[Distributed] = why.Error()
		return nil
	}
	if s.secure, err = peer.StartDistribution(ctx, s.cfg.Tools, s.cfg.Dir, s.certs, s.Origin, true); err != nil {
		return err
	}
	s.plain, err = peer.StartDistribution(ctx, s.cfg.Tools, s.cfg.Dir, s.certs, s.Origin, false)
	return err
}

func (s *Stand) startOurs(ctx context.Context, program, name string) (*peer.Ours, error) {
	if err := os.MkdirAll(s.dirOf(name), 0o755); err != nil {
		return nil, err
	}
	return peer.StartOurs(ctx, program, name, s.cfg.Dir, s.certs, s.Origin)
}

// dirOf is the directory of one of ours.
func (s *Stand) dirOf(name string) string { return filepath.Join(s.cfg.Dir, name) }

// kept is how much of the disk a program may keep from one row for the next, of which none needs it.
const kept = 1 << 30

// tidy empties the caches that have grown.
func (s *Stand) tidy(ctx context.Context) error {
	var errs []error
	if s.ours != nil {
		errs = append(errs, s.ours.Tidy(ctx, kept))
	}
	if s.before != nil {
		errs = append(errs, s.before.Tidy(ctx, kept))
	}
	if s.nginx != nil {
		errs = append(errs, s.nginx.Tidy(ctx, kept))
	}
	if s.secure != nil {
		errs = append(errs, s.secure.Tidy(ctx, kept), s.plain.Tidy(ctx, kept))
	}
	return errors.Join(errs...)
}

// Close ends all programs.
func (s *Stand) Close() error {
	var errs []error
	if s.ours != nil {
		errs = append(errs, s.ours.Stop())
	}
	if s.before != nil {
		errs = append(errs, s.before.Stop())
	}
	if s.nginx != nil {
		errs = append(errs, s.nginx.Stop())
	}
	if s.secure != nil {
		errs = append(errs, s.secure.Stop())
	}
	if s.plain != nil {
		errs = append(errs, s.plain.Stop())
	}
	if s.limit != nil {
		errs = append(errs, s.limit.Stop())
	}
	if s.Origin != nil {
		errs = append(errs, s.Origin.Stop())
	}
	return errors.Join(errs...)
}

// present leaves out the columns that there are none of.
func (s *Stand) present(columns []string, errs map[string]string) []string {
	if i := slices.Index(columns, Ours); i >= 0 && s.before != nil {
		columns = slices.Insert(slices.Clone(columns), i+1, Before)
	}
	var found []string
	for _, column := range columns {
		if len(s.cfg.Columns) > 0 && !slices.Contains(s.cfg.Columns, column) {
			errs[column] = "left out"
			continue
		}
		if why, absent := s.absent[column]; absent {
			errs[column] = why
			continue
		}
		found = append(found, column)
	}
	return found
}

// door is how a column is reached, and the process that is charged for it.
type door struct {
	load.Target
	*peer.Process
}

func (s *Stand) door(column, way string) door {
	ours := s.ours
	switch column {
	case Before:
		ours = s.before
		fallthrough
	case Ours:
		switch way {
		case mirrored:
			return door{ours.Mirror, ours.Process}
		case tunnelled:
			return door{ours.Tunnel, ours.Process}
		}
		return door{ours.Intercept, ours.Process}
	case Relay:
		if way == tunnelled {
			return door{s.nginx.Tunnel, s.nginx.Process}
		}
		return door{s.nginx.Relay, s.nginx.Process}
	case Nginx:
		return door{s.nginx.TLS, s.nginx.Process}
	case NginxECDSA:
		return door{s.nginx.TLSECDSA, s.nginx.Process}
	case Sendfile:
		return door{s.nginx.Plain, s.nginx.Process}
	case Distributed:
		if way == mirrored {
			return door{s.plain.Target, s.plain.Process}
		}
		return door{s.secure.Target, s.secure.Process}
	case Limit, LimitSums:
		return door{s.limit.Target, s.limit.Process}
	case LimitHTTP:
		return door{s.limit.Small, s.limit.Process}
	case Direct:
		return door{s.Origin.Direct, s.Origin.Process}
	}
	panic("no such column: " + column)
}

// prime gets paths through every column once, so that each has them cached. The bodies of blobs are verified.
func (s *Stand) prime(ctx context.Context, columns []string, way string, paths ...string) error {
	for _, column := range s.present(columns, map[string]string{}) {
		if column == Limit || column == LimitSums || column == LimitHTTP || column == Direct {
			continue
		}
		c, err := load.Dial(ctx, s.door(column, way).Target, load.Options{})
		if err != nil {
			return fmt.Errorf("%s: %w", column, err)
		}
		for _, path := range paths {
			if _, err := c.Get(ctx, load.Request{Path: path, Hash: isBlob(path)}); err != nil {
				_ = c.Close()
				return fmt.Errorf("%s: %w", column, err)
			}
		}
		_ = c.Close() // nothing is to be sent any more
		if err := settle(s.door(column, way).Process); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until a program has nothing more to do, a few seconds at most.
func settle(p *peer.Process) error {
	const step, idle = 50 * time.Millisecond, time.Millisecond
	before, err := p.CPU()
	if err != nil {
		return err
	}
	for range 100 {
		time.Sleep(step)
		now, err := p.CPU()
		if err != nil {
			return err
		}
		if now-before < idle {
			return nil
		}
		before = now
	}
	return nil
}

// charge runs work and returns the CPU time that it cost a program, what the program finishes behind it included.
func charge(p *peer.Process, work func() error) (time.Duration, error) {
	before, err := p.CPU()
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	if err := settle(p); err != nil {
		return 0, err
	}
	after, err := p.CPU()
	return after - before, err
}
