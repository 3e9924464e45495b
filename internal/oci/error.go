package oci

import (
	"encoding/json"
	"errors"
	"fmt"
)

// The error codes of the distribution spec v1.1 ("Error Codes"), and Docker's UNAVAILABLE.
const (
	CodeBlobUnknown     = "BLOB_UNKNOWN"
	CodeDenied          = "DENIED"
	CodeDigestInvalid   = "DIGEST_INVALID"
	CodeManifestInvalid = "MANIFEST_INVALID"
	CodeManifestUnknown = "MANIFEST_UNKNOWN"
	CodeNameInvalid     = "NAME_INVALID"
	CodeNameUnknown     = "NAME_UNKNOWN"
	CodeTagInvalid      = "TAG_INVALID"
	CodeTooManyRequests = "TOOMANYREQUESTS"
	CodeUnauthorized    = "UNAUTHORIZED"
	CodeUnavailable     = "UNAVAILABLE"
	CodeUnknown         = "UNKNOWN"
	CodeUnsupported     = "UNSUPPORTED"
)

// statuses is the one table from a code to its usual HTTP status.
var statuses = map[string]int{
	CodeBlobUnknown: 404, CodeManifestUnknown: 404, CodeNameUnknown: 404,
	CodeDenied: 403, CodeUnauthorized: 401,
	CodeDigestInvalid: 400, CodeManifestInvalid: 400, CodeNameInvalid: 400, CodeTagInvalid: 400,
	CodeTooManyRequests: 429, CodeUnavailable: 503, CodeUnknown: 502,
}

// Sentinels for errors.Is. An [*Error] matches the sentinel of the same code.
var (
	ErrDigestInvalid   = errors.New("digest invalid")
	ErrBlobUnknown     = &Error{Code: CodeBlobUnknown, Message: "blob unknown to registry"}
	ErrManifestUnknown = &Error{Code: CodeManifestUnknown, Message: "manifest unknown to registry"}
	ErrUnavailable     = &Error{Code: CodeUnavailable, Message: "registry cannot be reached"}
)

// Error is an error as the API spells it. Its message is shown to clients: it names no secret and no internal.
type Error struct {
	Code    string
	Message string
	// HTTPStatus overrides the code's usual status; 0 means the usual one.
	HTTPStatus int
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }

// Is compares codes, so that an upstream's decoded error matches ours.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Status is the HTTP status to answer with.
func (e *Error) Status() int {
	if e.HTTPStatus != 0 {
		return e.HTTPStatus
	}
	if status, ok := statuses[e.Code]; ok {
		return status
	}
	return 502
}

// Body is the JSON document that goes with the status, for example
//
//	{"errors":[{"code":"DENIED","message":"pushing is off: set ALLOW_PUSH=true"}]}
func (e *Error) Body() []byte {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	b, err := json.Marshal(map[string][]item{"errors": {{e.Code, e.Message}}})
	if err != nil {
		panic(err) // two strings always marshal
	}
	return append(b, '\n')
}
