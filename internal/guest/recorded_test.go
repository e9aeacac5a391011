package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

var recordNew = flag.Bool("record", false, "record the messages that have no recording yet; those of earlier releases stay for ever")

// recordings hold one file per method: what a release said, byte for byte. A release speaks with those before and after it
// (R27), so that none of them may ever become unreadable, nor anything in them get lost.
const recordings = "testdata/v1"

// recorded is a message, and the answer to it where one is given.
type recorded struct {
	Message *rpc.Envelope `json:"message"`
	Answer  *answer       `json:"answer,omitempty"`
}

// spoken are the types of all messages by their methods: what is said, and what is answered (nil for nothing).
func spoken() map[string]struct{ args, result any } {
	return map[string]struct{ args, result any }{
		MethodPrepare:   {PrepareRequest{}, nil},
		MethodRestart:   {Fence{}, nil},
		MethodStop:      {StopRequest{}, nil},
		MethodConfigure: {ConfigureRequest{}, datastore.Applied{}},
		MethodStatus:    {nil, StatusReport{}},
		MethodJob:       {jobRequest{}, JobStatus{}},
		MethodAction:    {ActionRequest{}, json.RawMessage{}},
		MethodBegin:     {ActionRequest{}, nil},
		MethodUpgrade:   {ConfigureRequest{}, nil},
		MethodAgent:     {AgentRequest{}, AgentUpgrade{}},
		MethodTrust:     {BrokerTrust{}, nil},
		MethodReport:    {StatusReport{}, nil},
		MethodHeartbeat: {Heartbeat{}, nil},
	}
}

var recordedKey = bytes.Repeat([]byte("recorded"), 4)

// filled gives a value of the type of v in which every field says something.
func filled(v any) any {
	if v == nil {
		return nil
	}
	n := 0
	p := reflect.New(reflect.TypeOf(v))
	fill(p.Elem(), &n)
	return p.Elem().Interface()
}

func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case json.RawMessage:
		v.SetBytes([]byte(`{"said":"thus"}`))
		return
	case []byte:
		v.SetBytes([]byte{1, 2, byte(*n)})
		return
	case *dbaas.Error:
		v.Set(reflect.ValueOf(dbaas.Errorf(dbaas.Conflict, "A reason.")))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text-", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Float64:
		v.SetFloat(float64(*n) + 0.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), n)
	case reflect.Map:
		value := reflect.New(v.Type().Elem()).Elem()
		fill(value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("name").Convert(v.Type().Key()), value)
	case reflect.Interface:
		v.Set(reflect.ValueOf("anything"))
	default:
		panic("nobody says how to fill a " + v.Type().String())
	}
}

// lost tells what of old is not in now; what is added is fine.
func lost(path string, old, now any) []string {
	switch o := old.(type) {
	case map[string]any:
		n, _ := now.(map[string]any)
		var all []string
		for _, key := range slices.Sorted(maps.Keys(o)) {
			all = append(all, lost(path+"."+key, o[key], n[key])...)
		}
		return all
	case []any:
		n, _ := now.([]any)
		if len(n) != len(o) {
			return []string{path}
		}
		var all []string
		for i := range o {
			all = append(all, lost(fmt.Sprint(path, ".", i), o[i], n[i])...)
		}
		return all
	}
	if !reflect.DeepEqual(old, now) {
		return []string{fmt.Sprintf("%s: %v became %v", path, old, now)}
	}
	return nil
}

// lostIn reads what was said as the present type of it, and tells what that does not keep.
func lostIn(t *testing.T, old []byte, as any) []string {
	t.Helper()
	p := reflect.New(reflect.TypeOf(as))
	if err := json.Unmarshal(old, p.Interface()); err != nil {
		return []string{err.Error()}
	}
	return lost("", tree(t, old), tree(t, []byte(jsonOf(t, p.Elem().Interface()))))
}

func tree(t *testing.T, text []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

// withFuture adds fields to every object, such as a later release may.
func withFuture(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if !slices.Contains([]string{"metrics", "values", "sealed"}, key) { // whose keys are names
				v[key] = withFuture(value)
			}
		}
		v["from_the_future"] = map[string]any{"a": []any{1.0}}
	case []any:
		for i := range v {
			v[i] = withFuture(v[i])
		}
	}
	return v
}

func newRecording(method string) (*recorded, error) {
	types := spoken()[method]
	topic := rpc.GuestTopic("0123456789abcdef")
	m := &rpc.Envelope{}
	switch method {
	case MethodReport:
		topic = rpc.TopicReports
	case MethodHeartbeat:
		topic = rpc.TopicHeartbeats
	}
	m, err := rpc.NewEnvelope(topic, method, filled(types.args))
	if err != nil {
		return nil, err
	}
	m.RequestID, m.TraceParent = "req-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	m.Sender, m.BootID, m.Epoch, m.Sequence = "text-1", "0000000001-boot", 3, int64(len(method)) // a guest reports as itself
	if !strings.HasPrefix(topic, "guest.") {
		var said struct {
			GuestID string `json:"guest_id"`
		}
		if json.Unmarshal(m.Args, &said) == nil && said.GuestID != "" {
			m.Sender = said.GuestID
		}
	} else {
		m.Deadline = dbaas.At(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC))
	}
	if err := rpc.Sign(recordedKey, m); err != nil {
		return nil, err
	}
	r := &recorded{Message: m}
	if strings.HasPrefix(topic, "guest.") {
		r.Answer, err = newAnswer(recordedKey, m, filled(types.result), nil)
	}
	return r, err
}

func readRecording(t *testing.T, method string) *recorded {
	t.Helper()
	path := filepath.Join(recordings, method+".json")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && *recordNew {
		r, err := newRecording(method)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll(recordings, 0o755), os.WriteFile(path, []byte(jsonOf(t, r)+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if err != nil {
		t.Fatalf("no message %s was recorded yet: go test ./internal/guest -run TestMessagesOfEarlierReleases -record", method)
	}
	r := new(recorded)
	if err := json.Unmarshal(text, r); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return r
}

// R27: what earlier releases say is understood, in every word; what later ones add is passed over; what we say has all that
// earlier ones went by.
func TestMessagesOfEarlierReleases(t *testing.T) {
	for method, types := range spoken() {
		t.Run(method, func(t *testing.T) {
			r := readRecording(t, method)
			requireUnderstood(t, method, r)
			if types.args != nil {
				if gone := lostIn(t, r.Message.Args, types.args); len(gone) > 0 {
					t.Errorf("what earlier releases say is lost: %v", gone)
				}
				if gone := lost("", keys(tree(t, r.Message.Args)), keys(tree(t, []byte(jsonOf(t, filled(types.args)))))); len(gone) > 0 {
					t.Errorf("earlier releases miss what is not said any more: %v", gone)
				}
			}
			if types.result != nil {
				if gone := lostIn(t, r.Answer.Result, types.result); len(gone) > 0 {
					t.Errorf("what earlier releases answer is lost: %v", gone)
				}
			}
			later := *r.Message
			if len(later.Args) > 0 {
				later.Args = json.RawMessage(jsonOf(t, withFuture(tree(t, later.Args))))
			}
			later.Sequence += 1000
			if err := rpc.Sign(recordedKey, &later); err != nil {
				t.Fatal(err)
			}
			wire := withFuture(tree(t, []byte(jsonOf(t, later)))).(map[string]any)
			wire["args"] = json.RawMessage(later.Args)
			if len(later.Args) == 0 {
				delete(wire, "args")
			}
			m, err := rpc.Decode(later.Topic, []byte(jsonOf(t, wire)))
			if err != nil {
				t.Fatal(err)
			}
			requireUnderstood(t, method, &recorded{Message: m})
		})
	}
}

// keys keeps the shape of a message and none of its values.
func keys(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = keys(value)
		}
		return v
	case []any:
		for i := range v {
			v[i] = keys(v[i])
		}
		return v
	}
	return reflect.TypeOf(v).String()
}

// requireUnderstood has the message handled as one that has come just now.
func requireUnderstood(t *testing.T, method string, r *recorded) {
	t.Helper()
	switch method {
	case MethodReport:
		if _, err := VerifyReport(recordedKey, r.Message); err != nil {
			t.Error(err)
		}
	case MethodHeartbeat:
		if _, err := VerifyHeartbeat(recordedKey, r.Message); err != nil {
			t.Error(err)
		}
	default:
		s := &server{key: recordedKey, api: &agent{}, clock: clock.Real{}}
		a, err := s.handle(context.Background(), r.Message)
		if given, ok := a.(*answer); err != nil || !ok || given.Error != nil {
			t.Errorf("%s: %+v, %v", method, a, err)
		}
		if r.Answer != nil {
			var result json.RawMessage
			if err := r.Answer.open(recordedKey, r.Message, &result); err != nil {
				t.Error(err)
			}
		}
	}
}

// The comparison finds what it should: a field that is gone, renamed, or of another type.
func TestLostIsFound(t *testing.T) {
	type now struct {
		Same  string `json:"same"`
		Typed int    `json:"typed"`
	}
	for text, n := range map[string]int{
		`{"same": "a", "typed": 1}`:             0,
		`{"same": "a"}`:                         0,
		`{"same": "a", "gone": "b"}`:            1,
		`{"same": {"deep": 1}, "typed": 1}`:     1,
		`{"same": "a", "typed": "1"}`:           1,
		`{"same": "a", "renamed": 1, "x": [1]}`: 2,
	} {
		if found := lostIn(t, []byte(text), now{}); len(found) != n {
			t.Errorf("%s: found %v, want %d", text, found, n)
		}
	}
}

// A bootstrap file stays where it was written at the first boot, and is read by every later agent.
func TestBootstrapOfEarlierReleases(t *testing.T) {
	const text = `{"guest_id":"g","datastore":"redis","version":"7.0","address":"10.0.0.5","queue":"q","rpc_url":"amqp://g:p@broker/","rpc_key":"AQI=","heartbeat":10000000000}`
	var b Bootstrap
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil || b.GuestID != "g" || b.Queue != "q" || b.RPCURL == "" || len(b.RPCKey) != 2 || b.Heartbeat != 10*time.Second {
		t.Errorf("%+v, %v", b, err)
	}
}
