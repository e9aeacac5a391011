package openstack

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// plain is a failure that is worth a retry. It tells operators the cloud's request id.
func plain(err error, deed string) error {
	if err == nil {
		return nil
	}
	var answer gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &answer) {
		return fmt.Errorf("%s: %s: the cloud answered %d to %s %s (request %s)", deed, sentence(answer), answer.Actual,
			answer.Method, answer.URL, answer.ResponseHeader.Get("X-Openstack-Request-Id"))
	}
	return fmt.Errorf("%s: %w", deed, err)
}

// act is for a deed on what should be there: that it is gone is final, all else worth a retry.
func act(err error, what, id string) error {
	if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return dbaas.WrapError(plain(err, what+" "+id), dbaas.NotFound, "The cloud does not have the %s any more.", what)
	}
	return plain(err, what+" "+id)
}

// gone is for a deletion: what is not there is gone.
func gone(err error, what, id string) error {
	if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return nil
	}
	return plain(err, "delete "+what+" "+id)
}

// refused is for a wish: what the cloud says no to for good is told in a sentence, without the numbers of the project to which
// everything belongs; all else is worth a retry.
func refused(err error, what string) error {
	var answer gophercloud.ErrUnexpectedResponseCode
	if !errors.As(err, &answer) {
		return plain(err, "make a "+what)
	}
	why := sentence(answer)
	operators := plain(err, "make a "+what)
	switch {
	case exhausted(answer, why):
		return dbaas.WrapError(operators, dbaas.OverLimit, "The cloud has no room left for the %s; its operator has to make some.", what)
	case answer.Actual == http.StatusNotFound:
		return dbaas.WrapError(operators, dbaas.NotFound, "The cloud refused the %s%s", what, reason(why))
	case answer.Actual == http.StatusBadRequest, answer.Actual == http.StatusConflict && taken(why):
		return dbaas.WrapError(operators, dbaas.BadRequest, "The cloud refused the %s%s", what, reason(why))
	default:
		return operators
	}
}

// reason ends a sentence for tenants with the cloud's own words where these are harmless. Numbers are ids or counts of the
// project to which everything belongs; operators see them.
func reason(why string) string {
	switch {
	case taken(why):
		return ": what it asks for is in use."
	case strings.ContainsAny(why, "0123456789") || ours.MatchString(why):
		return "; its operator can see why."
	default:
		return ": " + why
	}
}

// ours finds what names the project.
var ours = regexp.MustCompile(`(?i)\b(project|tenant|quota)`)

// exhausted tells a spent quota or an exhausted network: Cinder answers 413, Nova 403, Neutron 409.
func exhausted(answer gophercloud.ErrUnexpectedResponseCode, why string) bool {
	switch answer.Actual {
	case http.StatusRequestEntityTooLarge:
		return answer.ResponseHeader.Get("Retry-After") == "" || strings.Contains(why, "uota")
	case http.StatusForbidden, http.StatusConflict:
		return strings.Contains(why, "uota") || strings.Contains(why, "No more IP addresses")
	default:
		return false
	}
}

// taken tells an address that another has.
func taken(why string) bool {
	return strings.Contains(why, "in use") || strings.Contains(why, "already allocated")
}

// sentence takes the message out of a fault: {"badRequest": {"message": …}}, {"NeutronError": {"message": …}}.
func sentence(answer gophercloud.ErrUnexpectedResponseCode) string {
	var fault map[string]json.RawMessage
	var inner struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(answer.Body, &fault) == nil {
		for _, one := range fault {
			if json.Unmarshal(one, &inner) == nil && inner.Message != "" {
				break
			}
		}
	}
	first, _, _ := strings.Cut(strings.TrimSpace(inner.Message), "\n")
	if first == "" {
		first = http.StatusText(answer.Actual)
	}
	return strings.TrimRight(first, ". ") + "."
}
