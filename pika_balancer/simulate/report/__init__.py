"""Reports: a question and its answer on one page, to be read by people who were not there.

The map, from the centre outwards:

    numbers, words     figures, scenarios and answers as people say them
    canvas, panels     pictures, by matplotlib (the extra `plot`)
    page               one page of HTML, or one sheet as PNG or PDF
    simulation         what is on it
"""

from pika_balancer.simulate.report.canvas import available as drawable
from pika_balancer.simulate.report.page import FORMS, Page, Picture, Table, form_of
from pika_balancer.simulate.report.simulation_page import report_of

__all__ = ["FORMS", "Page", "Picture", "Table", "drawable", "form_of", "report_of"]
