"""Look at scans before training: a picture and a table of each, with warnings of what usually ruins results."""

from __future__ import annotations

from pathlib import Path

from kdmvs.stages.inputs import check_parallel


def run(scan: list[Path], out: list[Path], table: list[Path]) -> None:
    """Draw cameras, sparse points and depth ranges of each scan; write what `kdmvs inspect` says of it."""
    from kdmvs.datasets.examination import examine, warnings
    from kdmvs.datasets.fact_sheet import text
    from kdmvs.figures.overview import draw_overview
    from kdmvs.formats.atomic import replacing
    from kdmvs.scans import Scan

    check_parallel(scan=scan, out=out, table=table)
    for scan_path, out_path, table_path in zip(scan, out, table, strict=True):
        opened = Scan.open(scan_path)
        facts = examine(opened)
        draw_overview(opened, out_path)
        with replacing(table_path) as part:
            part.write_text(text(facts).lstrip("\n") + "\n", encoding="utf-8")
        for warning in warnings(facts):
            print(f"overview {opened.name}: warning: {warning}", flush=True)
        print(f"overview {opened.name}: -> {out_path}, {table_path}", flush=True)
