package api

import (
	"net/http"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

func (s *Server) eventRoutes() []route {
	return []route{{http.MethodGet, "/events", plain("event:index", s.listEvents)}}
}

func (s *Server) listEvents(r *request) (*answer, error) {
	p, err := s.page(r)
	if err != nil {
		return nil, err
	}
	filter := store.EventFilter{Limit: p.limit, Marker: p.marker}
	if filter.ProjectID, filter.ResourceID, err = s.historyScope(r); err != nil {
		return nil, err
	}
	events, more, err := s.Control.Events(r.Context(), r.caller, filter)
	if err != nil {
		return nil, err
	}
	list := wire.EventList{Events: []wire.Event{}}
	for i := range events {
		list.Events = append(list.Events, renderEvent(r, &events[i]))
	}
	if more {
		list.Links, list.EventsLinks = s.nextLinks(r, events[len(events)-1].ID)
	}
	return ok(list)
}

func renderEvent(r *request, e *dbaas.Event) wire.Event {
	event := wire.Event{
		ID: e.ID, Kind: e.Kind, Message: e.Message, ResourceType: e.ResourceType, ResourceID: e.ResourceID,
		OperationID: e.OperationID, Actor: e.Actor, RequestID: e.RequestID, SourceAddress: e.SourceAddress,
		Before: present(e.Before), After: present(e.After), Created: at(e.CreatedAt),
	}
	if r.caller.Admin {
		event.TenantID = e.ProjectID
	}
	return event
}

// present leaves out a document that is null.
func present(j dbaas.JSON) dbaas.JSON {
	if string(j) == "null" {
		return nil
	}
	return j
}
