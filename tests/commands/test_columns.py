"""`camlens report --columns`: a table of the user's takes part in groups; one that fits no image is refused."""

import json

from command_line import camlens


def test_columns_fit_the_images_or_are_refused(run, pictures, tmp_path):
    out, table = tmp_path / "out", tmp_path / "cameras.csv"
    command = ("report", run, "--data", pictures, "--out", out, "--columns", table)
    table.write_text("path,camera\nelsewhere.png,A\n", encoding="utf-8")
    said = camlens(*command, code=1)
    assert "cameras.csv, line 2: no image of" in said and "has the path 'elsewhere.png'" in said
    assert not (out / "report.html").exists()
    assert "--quick leaves out" in camlens(*command, "--quick", code=2)
    table.write_text("index,camera\n0,A\n1,B\n", encoding="utf-8")
    assert f"wrote {out}/report.html\n      {out}/report.json\n      {out}/report.parquet\n" in camlens(*command)
    listing = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert listing["groups"] == [] and isinstance(listing["shortcuts"], list)
    assert "No groups were searched for: 2 errors are too few" in (out / "report.html").read_text(encoding="utf-8")
