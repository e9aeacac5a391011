package api

import (
	"net/http"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

func (s *Server) operationRoutes() []route {
	return []route{
		{http.MethodGet, "/operations", plain("operation:index", s.listOperations)},
		{http.MethodGet, "/operations/{id}", plain("operation:show", s.showOperation)},
		{http.MethodPost, "/operations/{id}/action", withBody(s, "", s.actOnOperation)},
	}
}

func (s *Server) listOperations(r *request) (*answer, error) {
	p, err := s.page(r)
	if err != nil {
		return nil, err
	}
	filter := store.OperationFilter{Limit: p.limit, Marker: p.marker, Status: dbaas.OperationStatus(r.URL.Query().Get("status"))}
	if !validOperationStatus(filter.Status) {
		return nil, badRequest("There is no operation status %q.", printable(string(filter.Status)))
	}
	if filter.ProjectID, filter.ResourceID, err = s.historyScope(r); err != nil {
		return nil, err
	}
	operations, more, err := s.Control.Operations(r.Context(), r.caller, filter)
	if err != nil {
		return nil, err
	}
	list := wire.OperationList{Operations: []wire.Operation{}}
	for i := range operations {
		list.Operations = append(list.Operations, renderOperation(r, &operations[i]))
	}
	if more {
		list.Links, list.OperationsLinks = s.nextLinks(r, operations[len(operations)-1].ID)
	}
	return ok(list)
}

func validOperationStatus(status dbaas.OperationStatus) bool {
	switch status {
	case "", dbaas.OperationRunning, dbaas.OperationFailing, dbaas.OperationParked,
		dbaas.OperationSucceeded, dbaas.OperationFailed, dbaas.OperationCancelled:
		return true
	default:
		return false
	}
}

// historyScope reads whose operations or events are asked for: the caller's project's, or for administrators with
// all_projects everyone's, and with resource_id those of one resource.
func (s *Server) historyScope(r *request) (projectID, resourceID string, err error) {
	projectID, resourceID = r.caller.ProjectID, r.URL.Query().Get("resource_id")
	if resourceID != "" && uuid.Validate(resourceID) != nil {
		return "", "", badRequest("resource_id must be an id, not %q.", printable(resourceID))
	}
	if boolParam(r, "all_projects") {
		return "", resourceID, s.require(r, "operation:all_projects")
	}
	return projectID, resourceID, nil
}

func (s *Server) showOperation(r *request) (*answer, error) {
	view, err := s.Control.Operation(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	operation := renderOperation(r, &view.Operation)
	for i := range view.Steps {
		operation.Steps = append(operation.Steps, renderStep(r, &view.Steps[i]))
	}
	return ok(wire.OperationEnvelope{Operation: operation})
}

func (s *Server) actOnOperation(r *request, body *wire.OperationAction) (*answer, error) {
	id := r.param("id")
	switch {
	case body.Retry != nil && body.Cancel != nil, body.Retry == nil && body.Cancel == nil:
		return nil, badRequest("Name exactly one action: retry or cancel.")
	case body.Retry != nil:
		if err := s.require(r, "operation:retry"); err != nil {
			return nil, err
		}
		return accepted(id), s.Control.RetryOperation(r.Context(), r.caller, id)
	default:
		if err := s.require(r, "operation:cancel"); err != nil {
			return nil, err
		}
		return accepted(id), s.Control.CancelOperation(r.Context(), r.caller, id)
	}
}

func summarize(op *dbaas.Operation) wire.OperationSummary {
	return wire.OperationSummary{
		ID: op.ID, Kind: op.Kind, Status: string(op.Status), Step: op.Step,
		StepNumber: op.StepNumber, StepTotal: op.StepTotal, Progress: op.Progress,
	}
}

func renderOperation(r *request, op *dbaas.Operation) wire.Operation {
	o := wire.Operation{
		OperationSummary: summarize(op), ResourceType: op.ResourceType, ResourceID: op.ResourceID, ParentID: op.ParentID,
		Attempt: op.Attempt, RequestID: op.RequestID, Actor: op.Actor, Failure: renderFault(r, op.Failure),
		Created: at(op.CreatedAt), Updated: at(op.UpdatedAt), Ended: at(op.EndedAt),
	}
	if r.caller.Admin {
		o.TenantID = op.ProjectID
	}
	return o
}

// renderStep keeps what a step said to administrators: it may speak of what lies behind the API.
func renderStep(r *request, step *dbaas.OperationStep) wire.OperationStep {
	st := wire.OperationStep{
		Kind: step.Kind, Step: step.Step, Attempt: step.Attempt, Started: at(step.StartedAt), Ended: at(step.EndedAt), Outcome: step.Outcome,
	}
	if !step.EndedAt.IsZero() {
		st.Seconds = step.EndedAt.Sub(step.StartedAt).Seconds()
	}
	if r.caller.Admin {
		st.Message = step.Message
	}
	return st
}

func at(i dbaas.Instant) wire.Time { return wire.Time{Time: i.Time()} }
