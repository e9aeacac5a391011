package store

import (
	"context"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// InsertEvent records an event.
func (tx *Tx) InsertEvent(e *dbaas.Event) error {
	if err := setID(&e.ID); err != nil {
		return err
	}
	tx.setTime(&e.CreatedAt)
	return tx.failed("insert event", tx.db.Create(e).Error)
}

// EventFilter says which events to list, and from where. An empty field does not restrict.
type EventFilter struct {
	ProjectID  string
	ResourceID string
	Limit      int // 0: all
	Marker     string
}

// ListEvents reads a page of events, the newest first.
func (s *Store) ListEvents(ctx context.Context, f EventFilter) (list []dbaas.Event, more bool, err error) {
	err = eventPage(s.read.WithContext(ctx), f).Find(&list).Error
	list, more = page(ofProject(list, f.ProjectID, func(e dbaas.Event) string { return e.ProjectID }), f.Limit)
	return list, more, s.failed("list events", err)
}

func eventPage(db *gorm.DB, f EventFilter) *gorm.DB {
	q := db.Model(&dbaas.Event{})
	return limited(newestFirst(q, f.ProjectID, f.ResourceID, f.Marker), f.Limit)
}

// newestFirst selects the rows of a resource, else of a project, before the marker. A resource belongs to one project,
// so that asking for both would only give planners the choice of the wrong index; see ofProject.
func newestFirst(q *gorm.DB, projectID, resourceID, marker string) *gorm.DB {
	switch {
	case resourceID != "":
		q = q.Where("resource_id = ?", resourceID)
	case projectID != "":
		q = q.Where("project_id = ?", projectID)
	}
	if marker != "" {
		q = q.Where("id < ?", marker)
	}
	return q.Order("id DESC")
}

// ofProject leaves out the rows of other projects: all or none where newestFirst asked for a resource.
func ofProject[T any](rows []T, projectID string, project func(T) string) []T {
	if projectID == "" {
		return rows
	}
	kept := rows[:0]
	for _, r := range rows {
		if project(r) == projectID {
			kept = append(kept, r)
		}
	}
	return kept
}
