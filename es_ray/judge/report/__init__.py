"""The report of a run: one HTML page that needs no network; `page.write_report` writes it."""
