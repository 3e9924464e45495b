package fill

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// stream reads a run of a blob's bytes from a source and takes it up again where it breaks off, as often as that brings
// something.
type stream struct {
	fills    *Fills
	ctx      context.Context
	src      Source
	at, end  int64 // an end of -1 means the last byte
	size     int64 // of the blob; -1 until known
	delivery *Delivery
	began    int64 // where the delivery began
	broken   error // why it ended, to be dealt with by the next Read
	failures int   // in a row, without progress in between
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		switch {
		case s.ended():
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		case s.broken != nil:
			if err := s.retry(s.broken); err != nil {
				return 0, err
			}
			s.broken = nil
		}
		n, err := s.receive(p)
		if s.ended() {
			return n, io.EOF
		}
		if s.broken = err; n > 0 || err == nil {
			return n, nil
		}
	}
}

// ended reports whether all bytes have been given out.
func (s *stream) ended() bool { return s.end >= 0 && s.at >= s.end || s.size >= 0 && s.at >= s.size }

// receive reads once, asking first if need be. An error ends the delivery.
func (s *stream) receive(p []byte) (int, error) {
	if s.delivery == nil {
		if err := s.ask(); err != nil {
			return 0, err
		}
	}
	if s.end >= 0 {
		p = p[:min(int64(len(p)), s.end-s.at)]
	}
	n, err := s.delivery.Body.Read(p)
	s.at += int64(n)
	if err == nil {
		return n, nil
	}
	s.close()
	if err == io.EOF && s.end < 0 && s.size < 0 {
		s.size = s.at
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // unless s has ended
	}
	return n, err
}

// ask opens a delivery at the next byte.
func (s *stream) ask() error {
	delivery, err := fetch(s.ctx, s.src, s.at, s.end)
	if err != nil {
		return err
	}
	if s.size >= 0 && delivery.Size >= 0 && delivery.Size != s.size {
		delivery.close()
		return fmt.Errorf("size was %d bytes and is now %d", s.size, delivery.Size)
	}
	if err := delivery.skip(s.at); err != nil {
		delivery.close()
		return err
	}
	s.delivery, s.began = delivery, s.at
	s.size = max(s.size, delivery.Size)
	return nil
}

// retry waits before the stream is taken up again, or returns the error if that is not to be.
func (s *stream) retry(err error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if isProgress(s.at-s.began, s.size) {
		s.failures, s.began = 0, s.at
	}
	if s.failures++; permanent(err) || s.failures > s.fills.cfg.Retries || s.failures > 1 && !s.fills.again.Allow() {
		return fmt.Errorf("broke off at byte %d: %w", s.at, err)
	}
	s.fills.metrics.resumes.Inc()
	pause := s.fills.cfg.Backoff << (s.failures - 1)
	timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

func (s *stream) close() {
	if s.delivery != nil {
		s.delivery.close()
		s.delivery = nil
	}
}
