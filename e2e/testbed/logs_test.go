package testbed

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFindSeriesReadsQuotedLabels(t *testing.T) {
	const page = `# HELP failed_total x
failed_total{source="a",odd="x,y=\"}\"",flag="DENY"} 3
failed_total{source="b",odd="",flag="DENY"} 4
failed_total_created{source="b",flag="DENY"} 9
resident_bytes 12
`
	if v, ok := findSeries(page, "failed_total", map[string]string{"source": "b", "flag": "DENY"}); v != 4 || !ok {
		t.Errorf("found %v, %v, want 4", v, ok)
	}
	if v, _ := findSeries(page, "failed_total", map[string]string{"odd": `x,y="}"`}); v != 3 {
		t.Errorf("found %v, want the series whose label holds a comma, a quote and a brace", v)
	}
	if v, ok := findSeries(page, "resident_bytes", nil); v != 12 || !ok {
		t.Errorf("found %v, %v of a series without labels, want 12", v, ok)
	}
	if v, ok := sumSeries(page, "failed_total", map[string]string{"flag": "DENY"}); v != 7 || !ok {
		t.Errorf("found a sum of %v, %v, want 7", v, ok)
	}
	if v, ok := findSeries(page, "failed_total", map[string]string{"source": "c"}); v != 0 || ok {
		t.Errorf("found %v, %v for a source that never failed", v, ok)
	}
}

func TestAccessLogSkipsWhatIsHalfWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	const first = `{"src.addr":"10.0.0.1:1","bytes_sent":5}` + "\n"
	if err := os.WriteFile(path, []byte(first+`{"src.addr":"10.0.0.2:1"}`+"\n"+`{"src.ad`), 0o600); err != nil {
		t.Fatal(err)
	}
	entries, err := readAccessLog(path, int64(len(first)))
	if err != nil || len(entries) != 1 || entries[0].Get("src.addr") != "10.0.0.2:1" {
		t.Fatalf("read %v, %v; want the second line alone", entries, err)
	}
	entries, err = readAccessLog(path, 0)
	if err != nil || len(entries) != 2 || entries[0].Brief("bytes_sent", "absent", "src.addr") != "bytes_sent=5 src.addr=10.0.0.1:1" {
		t.Fatalf("read %v, %v", entries, err)
	}
}
