package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ParseSize reads a size as nginx does: bytes, or a number of k, m or g, each 1024 times the one before, in either
// case. There are no fractions, no spaces and no larger units.
func ParseSize(text string) (int64, error) {
	digits, unit := text, int64(1)
	if text != "" {
		switch text[len(text)-1] {
		case 'k', 'K':
			unit = 1 << 10
		case 'm', 'M':
			unit = 1 << 20
		case 'g', 'G':
			unit = 1 << 30
		}
	}
	if unit > 1 {
		digits = text[:len(text)-1]
	}
	if digits == "" || !isDigits(digits) {
		return 0, fmt.Errorf("%s is not a size: want a whole number of bytes, or one with k, m or g behind it, such as 32g", show(text))
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%s is too large: want less than 8589934592g, such as 32g", show(text))
	}
	return n * unit, nil
}

// timeUnits are nginx's, in the order in which they may be written.
var timeUnits = []struct {
	name string
	unit time.Duration
}{
	{"y", 365 * 24 * time.Hour}, {"M", 30 * 24 * time.Hour}, {"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour},
	{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond},
}

// ParseTime reads a time as nginx does: numbers with a unit each (y M w d h m s ms, a month having 30 days and a year
// 365), the larger units first, with or without spaces between them ("1d 12h"). A last number without a unit is
// seconds.
func ParseTime(text string) (time.Duration, error) {
	invalid := fmt.Errorf("%s is not a time: want whole numbers with y, M, w, d, h, m, s or ms behind them, larger units first, such as 60d, 90s or \"1d 12h\"", show(text))
	var total time.Duration
	next := 0 // the first unit that may still follow
	rest := text
	for parts := 0; rest != ""; parts++ {
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		rest = rest[len(digits):]
		name := rest[:len(rest)-len(strings.TrimLeft(rest, "yMwdhms"))]
		rest = strings.TrimLeft(rest[len(name):], " ")
		if name == "" {
			if rest != "" {
				return 0, invalid
			}
			name = "s"
		}
		// Units may follow without a space in between only where digits come first, so name is one unit.
		i := next
		for i < len(timeUnits) && timeUnits[i].name != name {
			i++
		}
		if digits == "" || i == len(timeUnits) {
			return 0, invalid
		}
		next = i + 1
		n, err := strconv.ParseInt(digits, 10, 64)
		if unit := timeUnits[i].unit; err != nil || n > int64((math.MaxInt64-total)/unit) {
			return 0, fmt.Errorf("%s is too long: want less than 290y, such as 60d", show(text))
		}
		total += time.Duration(n) * timeUnits[i].unit
	}
	if next == 0 {
		return 0, invalid
	}
	return total, nil
}

// parseBool takes the usual spellings. The originals know "true" alone and take anything else for false; a slip there
// goes unnoticed, here it is refused.
func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "1", "yes", "on":
		return true, nil
	case "false", "0", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("%s is neither true nor false: want true or false", show(text))
}

// parseShare takes a percentage, 0 to 100, with or without its sign, and returns it as a part of one.
func parseShare(text string) (float64, error) {
	digits := strings.TrimSuffix(text, "%")
	n, err := strconv.ParseUint(digits, 10, 7)
	if err != nil || n > 100 || !isDigits(digits) {
		return 0, fmt.Errorf("%s is no share: want a whole number from 0 to 100 with a per cent sign, such as 20%%", show(text))
	}
	return float64(n) / 100, nil
}

// parseListen takes host:port as net.Listen does, the host being empty, an address or a name.
func parseListen(text, example string) (string, error) {
	invalid := fmt.Errorf("%s is no address to listen at: want [host]:port, such as %s", show(text), example)
	if isDigits(text) {
		return "", fmt.Errorf("%s is a port alone: want a colon before it, :%s", show(text), show(text))
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil || !isDigits(port) {
		return "", invalid
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "", fmt.Errorf("%s: port %s is not a number from 0 to 65535, such as %s", show(text), show(port), example)
	}
	if host == "" {
		return text, nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return text, nil
	}
	if _, _, err := splitAuthority(host); err != nil || strings.Contains(host, ":") {
		return "", invalid
	}
	return text, nil
}

// parseNetworks takes CIDRs and single addresses between spaces or commas.
func parseNetworks(text string) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	var errs []error
	for _, field := range fields(text) {
		if addr, err := netip.ParseAddr(field); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			networks = append(networks, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(field)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s is no network: want address/bits, such as 10.0.0.0/8 or fd00::/8", show(field)))
		case prefix.Addr().Is4In6():
			errs = append(errs, fmt.Errorf("%s: want it in IPv4 notation, such as 10.0.0.0/8", show(field)))
		case prefix != prefix.Masked():
			errs = append(errs, fmt.Errorf("%s has bits behind the network: want %s, or %s for the one address", show(field), prefix.Masked(), prefix.Addr()))
		default:
			networks = append(networks, prefix)
		}
	}
	return networks, errors.Join(errs...)
}

func parseLevel(text string) (slog.Level, error) {
	switch strings.ToLower(text) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%s is no level: want debug, info, warn or error", show(text))
}

// fields splits a list at spaces and commas.
func fields(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || isSpace(r) })
}

func isSpace(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' }

func isDigits(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

// maxShown bounds how much of a value a message repeats.
const maxShown = 80

// show makes a value fit for one line of a message: quoted where it could be misread, and cut where it is long.
func show(text string) string {
	if len(text) > maxShown {
		cut := maxShown
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		return strconv.Quote(text[:cut]) + "…"
	}
	odd := func(r rune) bool { return r == ' ' || r == '"' || r == utf8.RuneError || !unicode.IsPrint(r) }
	if text == "" || strings.ContainsFunc(text, odd) {
		return strconv.Quote(text)
	}
	return text
}
