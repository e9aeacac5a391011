package redis

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/grove-dbaas/grove/datastore"
)

// maxClients bounds maxclients whatever the flavor; files is the limit of open files that goes with it.
const (
	maxClients = 65000
	files      = maxClients + 1024
)

func checkMaxMemory(value any, s datastore.Sizing) error {
	if s.FlavorRAM == 0 {
		return nil
	}
	n, ceiling := value.(int64), sizing(s).ceiling
	if least := ceiling * 3 / 10; n < least || n > ceiling {
		return fmt.Errorf("must be between %d and %d bytes on this flavor (%d MB), not %d", least, ceiling, s.FlavorRAM, n)
	}
	return nil
}

// checkMaxClients keeps a thousand idle connections from costing more than a small flavor has.
func checkMaxClients(value any, s datastore.Sizing) error {
	if s.FlavorRAM == 0 {
		return nil
	}
	if n, most := value.(int64), max(10000, int64(s.FlavorRAM)*10); n > most {
		return fmt.Errorf("must be at most %d on this flavor (%d MB), not %d", most, s.FlavorRAM, n)
	}
	return nil
}

func checkClientMemory(value any, _ datastore.Sizing) error {
	v := value.(string)
	if percent, ok := strings.CutSuffix(v, "%"); ok {
		if n, err := strconv.Atoi(percent); err == nil && n >= 1 && n <= 50 {
			return nil
		}
	} else if n, ok := datastore.ParseBytes(v); ok && n >= mib {
		return nil
	}
	return fmt.Errorf(`must be a size of at least 1mb, or a part of maxmemory from "1%%" to "50%%", not %q`, v)
}

func checkAppendFsync(value any, _ datastore.Sizing) error {
	if value == "no" {
		return errors.New(`must be everysec or always: with "no" a crash loses what the kernel has not written yet, half a minute or more`)
	}
	return nil
}

func checkTimeout(value any, _ datastore.Sizing) error {
	if n := value.(int64); n > 0 && n < 10 {
		return fmt.Errorf("must be 0 (never) or at least 10 seconds, not %d", n)
	}
	return nil
}

func checkSlowlog(value any, _ datastore.Sizing) error {
	if n := value.(int64); n > 0 && n < 100 {
		return fmt.Errorf("must be -1 (off), 0 (everything) or at least 100 microseconds, not %d", n)
	}
	return nil
}

func checkPassword(value any, _ datastore.Sizing) error {
	if value == "" {
		return errors.New("must not be empty: an instance is never without a password")
	}
	return nil
}

func checkKeyspaceEvents(value any, _ datastore.Sizing) error {
	const letters = "KEg$lshzxetmdnA"
	for _, r := range value.(string) {
		if !strings.ContainsRune(letters, r) {
			return fmt.Errorf("must be made of the letters %s, or empty, not %q", letters, value)
		}
	}
	return nil
}

func checkPercentiles(value any, _ datastore.Sizing) error {
	for _, word := range strings.Fields(value.(string)) {
		if f, err := strconv.ParseFloat(word, 64); err != nil || !(f >= 0 && f <= 100) {
			return fmt.Errorf(`must be a list of numbers from 0 to 100, such as "50 99 99.9", not %q`, value)
		}
	}
	return nil
}

// outputLimit is what a class of clients may leave unread: at once, or for some time.
type outputLimit struct {
	Hard, Soft, Seconds int64
}

func (l outputLimit) String() string { return fmt.Sprintf("%d %d %d", l.Hard, l.Soft, l.Seconds) }

// parseOutputLimits reads "class hard soft seconds", repeated.
func parseOutputLimits(value string) (map[string]outputLimit, error) {
	fields := strings.Fields(strings.ToLower(value))
	if len(fields)%4 != 0 || len(fields) == 0 {
		return nil, errors.New("four words for each class are needed")
	}
	limits := map[string]outputLimit{}
	for f := fields; len(f) > 0; f = f[4:] {
		hard, ok1 := datastore.ParseBytes(f[1])
		soft, ok2 := datastore.ParseBytes(f[2])
		seconds, err := strconv.ParseInt(f[3], 10, 32)
		if !ok1 || !ok2 || err != nil || hard < 0 || soft < 0 || seconds < 0 {
			return nil, fmt.Errorf("class %s needs two sizes and a number of seconds", f[0])
		}
		class := f[0]
		if class == "slave" {
			class = "replica"
		}
		if class != "normal" && class != "replica" && class != "pubsub" {
			return nil, fmt.Errorf("there is no class %q", f[0])
		}
		limits[class] = outputLimit{hard, soft, seconds}
	}
	return limits, nil
}

func checkOutputLimits(value any, s datastore.Sizing) error {
	limits, err := parseOutputLimits(value.(string))
	if err == nil {
		if _, ok := limits["replica"]; ok {
			err = errors.New("the class replica belongs to the plan")
		}
	}
	if err == nil && s.FlavorRAM > 0 {
		if most := sizing(s).ceiling / 2; limits["normal"].Hard > most || limits["pubsub"].Hard > most {
			err = fmt.Errorf("a client may leave at most %d bytes unread on this flavor", most)
		}
	}
	if err != nil {
		return fmt.Errorf(`must be "class hard soft seconds" for normal, pubsub or both, such as "pubsub 32mb 8mb 60": %w`, err)
	}
	return nil
}
