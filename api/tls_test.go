package api

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
)

// TestTLS: how clients connect is chosen at creation and later, and the authority that they trust is shown; what cannot be
// is refused, with nothing changed.
func TestTLS(t *testing.T) {
	h := newHouse(t)
	h.worker(func(string) string { return "" })
	text := h.get("/ca").want(200).text("ca.certificate")
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(rest) > 0 || block.Type != "CERTIFICATE" {
		t.Fatalf("the authority is %q", text)
	}
	if ca, err := x509.ParseCertificate(block.Bytes); err != nil || !ca.IsCA {
		t.Fatalf("the authority is %+v, %v", ca, err)
	}
	if again := h.get("/ca").text("ca.certificate"); again != text {
		t.Error("the authority is another at the second look")
	}
	body := strings.Replace(createBody("cache"), `"name"`, `"tls": "on", "name"`, 1)
	created := h.post("/instances", body).want(200).has("instance.tls", "on")
	id := created.text("instance.id")
	path := "/instances/" + id
	h.until(id, "ACTIVE")
	h.post(path+"/action", `{"renew_certificates": {}}`).want(202)
	h.waitIdle(id)
	h.get("/events?resource_id="+id).has("events.0.kind", "instance.renew_certificates.accepted")
	h.patch(path, `{"instance": {"tls": "both"}}`).want(202)
	h.waitIdle(id)
	h.get("/events?resource_id="+id).has("events.0.kind", "instance.set_tls.accepted", "events.0.before.tls", "on", "events.0.after.tls", "both")
	plain := h.newInstance("plain")
	h.until(plain, "ACTIVE")
	h.get("/instances/"+plain).has("instance.tls", absent, "instance.tls_certificate", absent)
	h.put("/instances/"+plain, `{"instance": {"tls": null}}`).want(202) // it is off
	before := h.digest()
	h.put(path, `{"instance": {"tls": "maybe"}}`).fault(400, "off, both, on")
	h.put(path, `{"instance": {"tls": "off", "profile": "cache"}}`).fault(400, "one thing at a time")
	h.post("/instances", strings.Replace(body, `"on"`, `"yes"`, 1)).fault(400, "off, both, on")
	h.post("/instances", `{"instance": {"name": "r", "replica_of": "`+plain+`", "tls": "on"}}`).fault(400, "instance.tls")
	h.post("/instances/"+plain+"/action", `{"renew_certificates": {}}`).fault(400, "its tls is off")
	if h.digest() != before {
		t.Error("something that was refused was written")
	}
}
