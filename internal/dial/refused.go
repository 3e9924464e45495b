package dial

import "fmt"

// RefusedError says that an address may not be dialled. Its text is meant for clients and operators alike.
type RefusedError struct {
	// Address is what was asked for, or the vetted "ip:port" behind it.
	Address string
	// Reason is the kind of address, "loopback address" for example.
	Reason string
	// Setting is the setting that lifts the refusal; empty where none does.
	Setting string
}

func (e *RefusedError) Error() string {
	if e.Setting == "" {
		return fmt.Sprintf("connection to %s refused: %s", e.Address, e.Reason)
	}
	return fmt.Sprintf("connection to %s refused: %s; allow it with %s", e.Address, e.Reason, e.Setting)
}
