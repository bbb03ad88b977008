"""Reports: a question and its answer as one HTML page that needs nothing else.

numbers, words                numbers, scenarios and answers as text
canvas                        pictures as SVG, by matplotlib (the extra `plot`)
page                          the page
simulation_page, plan_page    its contents
"""

from pika_balancer.simulate.report.canvas import available as drawable
from pika_balancer.simulate.report.page import Page, Picture, Table, check_name
from pika_balancer.simulate.report.simulation_page import report_of

__all__ = ["Page", "Picture", "Table", "check_name", "drawable", "report_of"]
