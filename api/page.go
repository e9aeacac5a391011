package api

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/api/wire"
)

// page is what a request says of the part of a list that it wants.
type page struct {
	limit  int
	marker string // id of the last item of the page before
}

// page reads a page of a list by id.
func (s *Server) page(r *request) (page, error) {
	p, err := s.pageBy(r, r.URL.Query().Get("marker"))
	if err == nil && p.marker != "" && uuid.Validate(p.marker) != nil {
		return page{}, badRequest("marker must be the id of the last item of the page before, not %q.", printable(p.marker))
	}
	return p, err
}

// pageBy reads a page of a list that goes by something else than ids.
func (s *Server) pageBy(r *request, marker string) (page, error) {
	query := r.URL.Query()
	p := page{limit: s.PageSize, marker: marker}
	if text := query.Get("limit"); text != "" {
		limit, err := strconv.Atoi(text)
		if err != nil || limit < 0 {
			return page{}, badRequest("limit must be a whole number of at least 0, not %q.", printable(text))
		}
		if limit > 0 {
			p.limit = min(limit, s.PageSize)
		}
	}
	return p, nil
}

// nextLinks link to the page after the one that ends with the item last. Trove's own (key "links") has the scheme
// https and its marker escaped twice, for its client unescapes once and copies; the other (key "<collection>_links")
// can be followed as it stands, which is what gophercloud does.
func (s *Server) nextLinks(r *request, last string) (troves, followed []wire.Link) {
	query := r.URL.Query()
	query.Set("marker", last)
	path := r.URL.EscapedPath() + "?"
	followed = nextLink(s.baseURL(r) + path + query.Encode())
	query.Set("marker", url.QueryEscape(last))
	return nextLink("https://" + r.Host + path + query.Encode()), followed
}

func nextLink(href string) []wire.Link {
	return []wire.Link{{Rel: "next", Href: href}}
}

// baseURL is where clients reach this server: as configured, else as this request did.
func (s *Server) baseURL(r *request) string {
	if s.PublicEndpoint != "" {
		return strings.TrimRight(s.PublicEndpoint, "/")
	}
	return requestBase(r.Request)
}

func requestBase(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

// links is a resource's pair of links: always https, the caller's project, and a bookmark without version and project.
func links(r *request, word, id string) []wire.Link {
	host := "https://" + r.Host
	path := "/" + word + "/" + url.PathEscape(id)
	return []wire.Link{
		{Rel: "self", Href: host + "/v1.0/" + url.PathEscape(r.caller.ProjectID) + path},
		{Rel: "bookmark", Href: host + path},
	}
}

// boolParam reads a boolean of the query, which arrives as Python writes it.
func boolParam(r *request, name string) bool {
	return strings.EqualFold(r.URL.Query().Get(name), "true")
}
