package guestagent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
)

// jobs are actions that take longer than a call. Any number of them goes on beside each other and beside commands. Their
// beginning and end are journalled: one whose end is not known, for the agent or a failover came in between, is
// "unknown" and may be begun again.
type jobs struct {
	log     *slog.Logger
	ctx     context.Context // ends with the agent
	stop    context.CancelFunc
	work    sync.WaitGroup
	mu      sync.Mutex // guards the fields below
	journal *journal
	running map[string]*job
}

// job is one that runs.
type job struct {
	epoch    int64
	cancel   context.CancelCauseFunc
	ended    bool // it was told to end
	progress string
}

// jobsDir is where the journal of jobs is, below the host's Dir.
const jobsDir = "jobs"

// mostJobs bounds how many run side by side.
const mostJobs = 32

// The states of jobs.
const (
	jobRunning   = "running"
	jobSucceeded = "succeeded"
	jobFailed    = "failed"
	jobUnknown   = "unknown"
)

func openJobs(dir string, log *slog.Logger) (*jobs, error) {
	journal, err := openJournal(dir)
	if err != nil {
		return nil, err
	}
	j := &jobs{log: log, journal: journal, running: map[string]*job{}}
	j.ctx, j.stop = context.WithCancel(context.Background())
	return j, nil
}

// close ends all jobs and returns when they have ended.
func (j *jobs) close() {
	j.mu.Lock() // none begins meanwhile
	j.stop()
	j.mu.Unlock()
	j.work.Wait()
}

// begin starts a job, or leaves alone one of that name that runs or ran.
func (j *jobs) begin(id string, epoch int64, run func(context.Context) (any, error)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if found, ok := j.running[id]; ok {
		if found.ended {
			return dbaas.Errorf(dbaas.Unavailable, "The job %s is about to end; begin it again when it has.", id)
		}
		return nil
	}
	last, known, err := j.recorded(id)
	if err != nil || known && last.State != jobRunning {
		return err
	}
	if len(j.running) >= mostJobs {
		return dbaas.Errorf(dbaas.Unavailable, "The guest is at work on %d jobs; more than that it does not take.", mostJobs)
	}
	if j.ctx.Err() != nil {
		return dbaas.Errorf(dbaas.Unavailable, "The guest's agent is ending.")
	}
	if _, err := j.journal.record(id, datastore.JobState{State: jobRunning}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(j.ctx)
	this := &job{epoch: epoch, cancel: cancel}
	j.running[id] = this
	j.work.Go(func() {
		defer cancel(nil)
		value, err := run(datastore.WithProgress(ctx, func(message string) { j.note(this, message) }))
		j.end(ctx, id, value, err)
	})
	return nil
}

func (j *jobs) note(this *job, progress string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	this.progress = progress
}

// end journals what came of a job. Of one that was cut off nothing is: nobody knows how far it came.
func (j *jobs) end(ctx context.Context, id string, value any, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.running, id)
	if err != nil && ctx.Err() != nil {
		j.log.Info("job cut off", "job", id, "error", err)
		return
	}
	state := datastore.JobState{State: jobSucceeded}
	if err == nil {
		state.Result, err = json.Marshal(value)
	}
	if err != nil {
		j.log.Error("job failed", "job", id, "error", err)
		state = datastore.JobState{State: jobFailed, Error: dbaas.Errorf(dbaas.ErrorCode(err), "%s", dbaas.ErrorMessage(err))}
	}
	if _, err := j.journal.record(id, state); err != nil {
		j.log.Error("end of a job not journalled", "job", id, "error", err)
	}
}

// endBefore ends the jobs of earlier epochs.
func (j *jobs) endBefore(epoch int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, this := range j.running {
		if this.epoch < epoch {
			this.ended = true
			this.cancel(outdated())
		}
	}
}

// find tells how a job stands; known is false for one that was never begun here.
func (j *jobs) find(id string) (state datastore.JobState, known bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if this, ok := j.running[id]; ok {
		return datastore.JobState{State: jobRunning, Progress: this.progress}, true, nil
	}
	state, known, err = j.recorded(id)
	if state.State == jobRunning { // its end is not known
		state = datastore.JobState{State: jobUnknown}
	}
	return state, known, err
}

func (j *jobs) recorded(id string) (state datastore.JobState, known bool, err error) {
	text, known, err := j.journal.find(id)
	if err != nil || !known {
		return state, false, err
	}
	if err := json.Unmarshal(text, &state); err != nil {
		return state, false, fmt.Errorf("read the journal of job %s: %w", id, err)
	}
	return state, true, nil
}

// Job implements [guest.API]. A job that the journal does not know is "unknown": the agent does not guess. A command is
// found as well, once it is done.
func (a *Agent) Job(_ context.Context, id string) (*guest.JobStatus, error) {
	state, known, err := a.jobs.find(id)
	if err != nil || known {
		return &guest.JobStatus{ID: id, JobState: state}, err
	}
	result, done, err := a.journal.find(id)
	if err != nil {
		return nil, err
	}
	if done {
		return &guest.JobStatus{ID: id, JobState: datastore.JobState{State: jobSucceeded, Result: result}}, nil
	}
	return &guest.JobStatus{ID: id, JobState: datastore.JobState{State: jobUnknown}}, nil
}

// BeginAction implements [guest.API]. It waits for no command; the action goes on beside them.
func (a *Agent) BeginAction(_ context.Context, r guest.ActionRequest) error {
	action, err := a.action(r.Name)
	if err != nil {
		return err
	}
	if err := a.admit(r.Fence); err != nil {
		return err
	}
	begin := a.havingDatabase(func(context.Context) (any, error) {
		return nil, a.jobs.begin(r.CommandID, r.GroupEpoch, func(ctx context.Context) (any, error) { return action(ctx, r.Args) })
	})
	_, err = begin(a.jobs.ctx)
	return err
}
