package client

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"

	"github.com/grove-dbaas/grove/api/wire"
)

// Page is which part of a list is wanted: at most Limit entries (0: all) after Marker.
type Page struct {
	Limit  int
	Marker string
}

// list reads a collection, following its paging links until the end or until the limit is reached.
func list[T any](ctx context.Context, c *Client, r request, collection string, p Page) ([]T, error) {
	all := []T{}
	marker := p.Marker
	for {
		page, next, err := listPage[T](ctx, c, r, collection, Page{Limit: p.Limit - len(all), Marker: marker})
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if p.Limit > 0 && len(all) >= p.Limit {
			return all[:p.Limit], nil
		}
		if next == "" {
			return all, nil
		}
		if next == marker {
			return nil, fmt.Errorf("%s: the server's link to the next page leads to the same page", r)
		}
		marker = next
	}
}

func listPage[T any](ctx context.Context, c *Client, r request, collection string, p Page) (page []T, next string, err error) {
	var body map[string]json.RawMessage
	r.method, r.out = http.MethodGet, &body
	query := url.Values{}
	maps.Copy(query, r.query)
	if p.Limit > 0 {
		query.Set("limit", strconv.Itoa(p.Limit))
	}
	if p.Marker != "" {
		query.Set("marker", p.Marker)
	}
	r.query = query
	if _, err := c.call(ctx, r); err != nil {
		return nil, "", err
	}
	if body[collection] == nil {
		return nil, "", fmt.Errorf("%s: the answer has no %q", r, collection)
	}
	if err := json.Unmarshal(body[collection], &page); err != nil {
		return nil, "", fmt.Errorf("%s: read %q: %w", r, collection, err)
	}
	return page, nextMarker(body["links"]), nil
}

// nextMarker finds the marker in the link to the next page. Trove encodes it twice there, so it is decoded twice.
func nextMarker(links json.RawMessage) string {
	var list []wire.Link
	if json.Unmarshal(links, &list) != nil {
		return ""
	}
	for _, l := range list {
		u, err := url.Parse(l.Href)
		if l.Rel != "next" || err != nil {
			continue
		}
		marker := u.Query().Get("marker")
		if plain, err := url.QueryUnescape(marker); err == nil {
			marker = plain
		}
		return marker
	}
	return ""
}
