package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream/auth"
)

// UnreachableError says that a registry, what it redirects to, or its token service gave no answer: DNS, a refused
// connection, TLS, a time-out, a redirect that is not followed. Its text may be shown to clients: it names hosts, no
// paths and no query strings.
type UnreachableError struct {
	Registry oci.Registry
	// Host is where it went wrong: the registry's, or that of a redirect or of the token service.
	Host string
	// Err is what went wrong. Its text is for nobody but us.
	Err error
}

func (e *UnreachableError) Error() string {
	if e.Host == "" || e.Host == e.Registry.Authority() {
		return fmt.Sprintf("registry %s: %s", e.Registry, causeText(e.Err))
	}
	return fmt.Sprintf("registry %s: %s: %s", e.Registry, e.Host, causeText(e.Err))
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// safeError is an error whose text was written here, with nothing of a stranger's in it.
type safeError string

func (e safeError) Error() string { return string(e) }

// errStalled is the cause of a body or header that does not come.
const errStalled = safeError("no byte within the read time-out")

// causeText is a sentence about err that quotes nothing a registry sent.
func causeText(err error) string {
	if parent, ok := errors.AsType[*parentError](err); ok {
		return parent.Error()
	}
	if safe, ok := errors.AsType[safeError](err); ok {
		return string(safe)
	}
	if refused, ok := errors.AsType[*dial.RefusedError](err); ok {
		return refused.Error()
	}
	if service, ok := errors.AsType[*auth.ServiceError](err); ok {
		if service.Status != 0 && service.Status != 200 {
			return fmt.Sprintf("token service answered %d", service.Status)
		}
		return "token service: " + causeText(service.Err)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "name does not resolve"
		}
		return "name server gives no answer"
	}
	if text := certificateText(err); text != "" {
		return text
	}
	if timeout, ok := errors.AsType[net.Error](err); errors.Is(err, context.DeadlineExceeded) || ok && timeout.Timeout() {
		return "no answer in time"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection broken"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "host is not reachable"
	}
	return "no usable answer"
}

// certificateText explains TLS failures, which somebody will have to mend.
func certificateText(err error) string {
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return "x509: certificate is not for " + e.Host
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if e.Reason == x509.Expired {
			return "x509: certificate has expired or is not yet valid"
		}
		return "x509: certificate is not acceptable"
	}
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	switch {
	case record:
		return "not a TLS server"
	case verification:
		return "x509: certificate is not acceptable"
	case alert, strings.Contains(err.Error(), "tls: "):
		return "TLS handshake failed"
	}
	return ""
}
