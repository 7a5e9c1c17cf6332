"""Checks of a proxy's flow records and counters."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal

from msgspec import Meta, field

from oxyctl.topology.checks.base import parsed
from oxyctl.topology.checks.values import check_expected
from oxyctl.topology.model import Check, ErrorAt, Lab
from oxyctl.topology.nodes.proxy import ProxyNode
from oxyctl.topology.quantities import Duration, seconds
from proxy.settings import suggest

Count = Annotated[int, Meta(ge=0)]
Value = bool | float | str | list[str | float | bool | None] | None


class ProxyCheck(Check, kw_only=True, frozen=True):
    """A check of a proxy's records, after all checks before it; repeated until its `timeout`."""

    proxy: str | None = None  # required only if the lab has several

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` unless the proxy exists and is unambiguous."""
        super().validate(lab, error_at)
        proxies = [name for name, node in lab.nodes.items() if isinstance(node, ProxyNode)]
        if self.proxy is not None and self.proxy not in proxies:
            fault = f"node '{self.proxy}' is not a proxy" if self.proxy in lab.nodes else f"unknown node '{self.proxy}'"
            raise error_at(fault + suggest(self.proxy, proxies), "proxy")
        if self.proxy is None and len(proxies) != 1:
            which = f"; one of: {', '.join(proxies)}" if proxies else ", and the lab has none"
            raise error_at(f"key 'proxy' is required{which}")


class FlowsCheck(ProxyCheck, kw_only=True, frozen=True, tag="flows"):
    """The number of flows of `tenant` that `where` selects and whose `fields` match, since the run began.

    `where` takes the filters of `oxyctl flows`, `fields` its fields: a value, a list of which one must match, or a
    comparison such as ">= 100", "!= client", "~ ^10[.]50[.]".
    """

    tenant: str
    where: dict[str, str | int | list[str | int]] = field(default_factory=dict)
    fields: dict[str, Value] = field(default_factory=dict)
    at_least: Count = 1
    at_most: Count | None = None
    since: Duration | None = None  # this long before now, instead of since the run began

    def summary(self) -> str:
        """The tenant and the filters."""
        return " ".join([f"of {self.tenant}", *(f"{name}={value}" for name, value in self.where.items())])

    def pairs(self) -> list[tuple[str, str]]:
        """The parameters of the query, except the time."""
        pairs = [("tenant", self.tenant)]
        for name, value in self.where.items():
            pairs += [(name, str(each)) for each in (value if isinstance(value, list) else [value])]
        return pairs

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an unknown tenant, filter or field, or an invalid value."""
        from oxyctl.render.flows import FIELDS

        super().validate(lab, error_at)
        self._check_tenant(lab, error_at)
        self._check_filters(error_at)
        for name, expected in self.fields.items():
            if name not in FIELDS:
                raise error_at(f"unknown field '{name}'{suggest(name, FIELDS)}", "fields", name, at_key=True)
            try:
                check_expected(expected)
            except (ValueError, re.error) as error:
                raise error_at(str(error), "fields", name) from None
        if self.at_most is not None and self.at_most < self.at_least:
            raise error_at(f"at_most is less than at_least ({self.at_least})", "at_most")
        if self.since is not None:
            parsed(error_at, "since", seconds, self.since)

    def _check_tenant(self, lab: Lab, error_at: ErrorAt) -> None:
        proxies = {name: node for name, node in lab.nodes.items() if isinstance(node, ProxyNode)}
        tenants = proxies[self.proxy or next(iter(proxies))].tenants
        if self.tenant not in tenants:
            raise error_at(f"unknown tenant '{self.tenant}'{suggest(self.tenant, tenants)}", "tenant")

    def _check_filters(self, error_at: ErrorAt) -> None:
        from proxy.control.schema import WATCH_PARAMETERS, QueryError, parse_query

        filters = set(WATCH_PARAMETERS) - {"tenant", "all_tenants"}
        for name in self.where:
            if name not in filters:
                raise error_at(f"unknown filter '{name}'{suggest(name, filters)}", "where", name, at_key=True)
            try:
                parse_query([pair for pair in self.pairs() if pair[0] in (name, "tenant")], datetime.datetime.now())
            except QueryError as error:
                raise error_at(str(error), "where", name) from None


class MetricCheck(ProxyCheck, kw_only=True, frozen=True, tag="metric"):
    """The sum of the samples of `metric` with these `labels` meets the comparison; without samples it is 0."""

    metric: Annotated[str, Meta(pattern="^[a-zA-Z_:][a-zA-Z0-9_:]*$")]
    value: float
    op: Literal[">=", "<=", "==", "!=", ">", "<"] = ">="
    labels: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """The comparison."""
        return f"{self.metric} {self.op} {self.value:g}"
