package rpc

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

var testKey = bytes.Repeat([]byte("k"), MinKey)

func full() *Envelope {
	return &Envelope{
		ID: "1", Topic: "reports", Method: "m", Version: 1, Args: json.RawMessage(`{"a":1}`), RequestID: "r", TraceParent: "t",
		Deadline: 5, Sender: "s", BootID: "b", Epoch: 7, Sequence: 8,
	}
}

// Every field but the MAC is covered, also those that somebody adds later.
func TestSignatureCoversEveryField(t *testing.T) {
	fields := reflect.TypeFor[Envelope]()
	for i := range fields.NumField() {
		name := fields.Field(i).Name
		m := full()
		if err := Sign(testKey, m); err != nil {
			t.Fatal(err)
		}
		if err := Verify(testKey, m); err != nil {
			t.Fatal(err)
		}
		f := reflect.ValueOf(m).Elem().Field(i)
		if f.IsZero() {
			t.Errorf("the test sets no %s", name)
		}
		switch f.Kind() {
		case reflect.String:
			f.SetString(f.String() + "x")
		case reflect.Int, reflect.Int64:
			f.SetInt(f.Int() + 1)
		case reflect.Slice:
			f.SetBytes(append(bytes.Clone(f.Bytes()), ' '))
		default:
			t.Fatalf("%s has a kind that the test does not know", name)
		}
		if dbaas.ErrorCode(Verify(testKey, m)) != dbaas.Unauthorized {
			t.Errorf("a changed %s is not noticed", name)
		}
	}
}

// What stands at the end of one field cannot move to the beginning of the next.
func TestSignatureIsUnambiguous(t *testing.T) {
	a, b := full(), full()
	a.RequestID, a.TraceParent = "rt", ""
	b.RequestID, b.TraceParent = "r", "t"
	if err := Sign(testKey, a); err != nil {
		t.Fatal(err)
	}
	b.MAC = a.MAC
	if Verify(testKey, b) == nil {
		t.Error("two messages have one signature")
	}
	if bytes.Equal(MAC(testKey, "a", "bc"), MAC(testKey, "ab", "c")) || bytes.Equal(MAC(testKey, "a"), MAC(testKey, "a", "")) {
		t.Error("two lists of fields have one MAC")
	}
}

// JSON rewrites arguments on the way; the signature must survive it.
func TestSignatureSurvivesJSON(t *testing.T) {
	for _, args := range []string{"", "null", `{ "a" : [1, 2] }`, `"<&>\u2028 ü"`, "1e400", `{"a":1,"a":2}`} {
		m := full()
		m.Args = json.RawMessage(args)
		if err := Sign(testKey, m); err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		for range 3 { // once more at each hop
			body, err := Encode(m)
			if err != nil {
				t.Fatal(err)
			}
			if m, err = Decode("reports", body); err != nil {
				t.Fatal(err)
			}
		}
		if err := Verify(testKey, m); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestSignNeedsAKey(t *testing.T) {
	for _, key := range [][]byte{nil, {}, []byte("changeme"), testKey[1:]} {
		m := full()
		if Sign(key, m) == nil || m.MAC != nil {
			t.Errorf("signed with a key of %d bytes", len(key))
		}
		m.MAC = envelopeMAC(key, m)
		if dbaas.ErrorCode(Verify(key, m)) != dbaas.Unauthorized {
			t.Errorf("accepted under a key of %d bytes", len(key))
		}
	}
	if err := Sign(testKey, &Envelope{Args: json.RawMessage("{")}); err == nil {
		t.Error("signed what is no JSON")
	}
}

func TestLate(t *testing.T) {
	now := time.Unix(1000, 0)
	for deadline, late := range map[dbaas.Instant]bool{
		0: false, dbaas.At(now): false, dbaas.At(now.Add(-ClockSkew)): false, dbaas.At(now.Add(-ClockSkew - time.Second)): true,
	} {
		if m := (&Envelope{Deadline: deadline}); m.Late(now) != late {
			t.Errorf("deadline %d: late is %v", deadline, !late)
		}
	}
}

func FuzzDecode(f *testing.F) {
	body, err := Encode(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"id":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := Decode("reports", body)
		if err != nil {
			return
		}
		again, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode("reports", again); err != nil {
			t.Errorf("%s became %s: %v", body, again, err)
		}
		if Verify(testKey, m) == nil {
			t.Error("forged")
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"id":"1","result":{"a":1},"error":{"code":"conflict","message":"m"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := new(Reply)
		if json.Unmarshal(body, r) == nil {
			var result any
			_ = r.Decode(&result)
		}
	})
}
