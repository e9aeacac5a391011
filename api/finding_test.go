package api

import (
	"testing"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// TestFindings: the administrator reads what the janitor reports, page by page, and has orphans deleted; what is missing cannot be.
func TestFindings(t *testing.T) {
	h := newHouse(t)
	admin := h.as("admin")
	seen := []dbaas.Finding{
		{ID: "00000000-0000-7000-8000-000000000001", Problem: dbaas.ProblemOrphan, Kind: "server", ResourceID: "s", OwnerID: "g"},
		{ID: "00000000-0000-7000-8000-000000000002", Problem: dbaas.ProblemMissing, Kind: "volume", ResourceID: "v", OwnerID: "g", InstanceID: "i", ProjectID: "demo"},
		{ID: "00000000-0000-7000-8000-000000000003", Problem: dbaas.ProblemOrphan, Kind: "port", ResourceID: "p", OwnerID: "g"},
	}
	young := dbaas.Finding{ID: "00000000-0000-7000-8000-000000000004", Problem: dbaas.ProblemOrphan, Kind: "port", ResourceID: "young", OwnerID: "g"}
	for _, found := range [][]dbaas.Finding{seen, append(seen, young)} {
		if _, _, err := h.store.RecordFindings(t.Context(), found, 0); err != nil {
			t.Fatal(err)
		}
	}
	h.get("/mgmt/findings").fault(403, "administrator")
	h.post("/mgmt/findings/action", `{"delete": {"all": true}}`).fault(403, "administrator")
	admin.get("/mgmt/findings").want(200).has("findings.0.id", seen[0].ID, "findings.0.problem", "orphan", "findings.0.to_be_deleted", false,
		"findings.1.problem", "missing", "findings.1.instance_id", "i", "findings.2.id", seen[2].ID, "findings.3", absent)
	admin.get("/mgmt/findings?limit=1&marker="+seen[0].ID).want(200).has("findings.0.id", seen[1].ID, "findings.1", absent)
	admin.post("/mgmt/findings/action", `{"delete": {"findings": ["`+seen[1].ID+`"]}}`).fault(400, "nothing to delete")
	admin.post("/mgmt/findings/action", `{"delete": {"findings": ["`+young.ID+`"]}}`).fault(404, young.ID)
	admin.post("/mgmt/findings/action", `{"delete": {"findings": ["`+seen[0].ID+`", "`+seen[1].ID+`"]}}`).fault(400)
	admin.get("/mgmt/findings").want(200).has("findings.0.to_be_deleted", false)
	admin.post("/mgmt/findings/action", `{"delete": {"findings": ["`+seen[0].ID+`"]}}`).want(202)
	admin.get("/mgmt/findings").want(200).has("findings.0.to_be_deleted", true, "findings.2.to_be_deleted", false)
	admin.post("/mgmt/findings/action", `{"delete": {"all": true}}`).want(202)
	admin.get("/mgmt/findings").want(200).has("findings.1.to_be_deleted", false, "findings.2.to_be_deleted", true)
}
