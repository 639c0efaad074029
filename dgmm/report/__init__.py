"""Reports of fitted models for people: one HTML file with numbers, curves and pictures."""

from dgmm.report.page import write_report
from dgmm.report.pictures import Gallery

__all__ = ["Gallery", "write_report"]
