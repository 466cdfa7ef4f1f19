"""Changes the watchdog of a running machine, one small step after the other.

Wherever it dies between two steps, the machine has the former device or the new one, or the domain's own note says which device it lost:
then the next call, or :meth:`LiveChanges.put_back`, goes on from there.
"""

import json
import logging
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import libvirt
import libvirt_qemu

from compute_agent.contract.watchdogs import ExpiryAction, WatchdogDevice
from compute_agent.drivers.libvirt.domain_xml import read_root
from compute_agent.drivers.libvirt.errors import is_lost
from compute_agent.drivers.libvirt.removals import Removals
from compute_agent.drivers.libvirt.runs import find_run
from compute_agent.drivers.libvirt.watchdog_mark import LiveWatchdog, Mark, read_live, write_mark
from compute_agent.drivers.libvirt.watchdog_models import BY_WORD
from compute_agent.drivers.libvirt.watchdog_xml import find_alias, find_element, write_device

LOG = logging.getLogger(__name__)

_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE


class Step(StrEnum):
    """How a running machine comes by what is wanted."""

    NOTHING = "nothing"
    SET_ACTION = "set_action"
    ATTACH = "attach"
    DETACH = "detach"
    REPLACE = "replace"
    NEXT_START = "next_start"

    @property
    def needs_guest(self) -> bool:
        """Whether the guest has to let go of a device."""
        return self in (Step.DETACH, Step.REPLACE)


class NotChanged(Exception):
    """The machine has the watchdog that it had; the text says why."""


class NothingLeft(Exception):
    """The former device went and no other came. The domain's note says so; it is tried again."""


def plan_change(live: LiveWatchdog, wanted: WatchdogDevice | None) -> Step:
    """libvirt dumps where its own definition says ``dump``, whatever QEMU was told: to and from it, the device has to be replaced."""
    have = live.device
    if have == wanted and live.is_sure:
        return Step.NOTHING
    if have is None:
        assert wanted is not None, "they differ"
        return Step.ATTACH if BY_WORD[wanted.model].hot_plug else Step.NEXT_START
    if wanted is not None and wanted.model != have.model:
        return Step.NEXT_START  # until then it keeps the one that it has
    if wanted is not None and ExpiryAction.DUMP not in (live.said, wanted.expiry_action):
        return Step.SET_ACTION
    if live.is_fixed or not BY_WORD[have.model].hot_plug:
        return Step.NEXT_START
    return Step.DETACH if wanted is None else Step.REPLACE


class LiveChanges:
    """:param detach_timeout: seconds that a guest has to let go of a device
    :param pid_file_directory: as :func:`find_run` wants it
    """

    def __init__(self, removals: Removals, detach_timeout: float, pid_file_directory: Path | None) -> None:
        self._removals = removals
        self._detach_timeout = detach_timeout
        self._pid_file_directory = pid_file_directory

    def bring(self, domain: libvirt.virDomain, root: Element, wanted: WatchdogDevice | None) -> None:
        """Take the step that :func:`plan_change` names.

        :param root: the live XML, as it was read for the plan
        :raises NotChanged: nothing is changed.
        :raises NothingLeft: neither device is there.
        :raises libvirt.libvirtError: libvirt was lost on the way (nobody knows), or refused before anything was done.
        """
        live = read_live(domain, root, self._pid_file_directory)
        run = find_run(domain, root, self._pid_file_directory)
        match plan_change(live, wanted):
            case Step.NOTHING:
                self._tidy(domain, live)
            case Step.SET_ACTION:
                assert wanted is not None
                self._set_action(domain, live, run, wanted)
            case Step.ATTACH:
                assert wanted is not None
                self._attach_first(domain, live, run, wanted)
            case Step.DETACH | Step.REPLACE:
                assert live.device is not None
                self._detach(domain, root, live, run, live.device)
                if wanted is None:
                    write_mark(domain, Mark(run))
                else:
                    self._attach_instead(domain, run, live.device, wanted)

    def put_back(self, domain: libvirt.virDomain) -> None:
        """Give the machine back what QEMU took away late.

        :raises libvirt.libvirtError: it could not be had back.
        """
        root = read_root(domain.XMLDesc())
        if root.get("id") is None:
            return
        live = read_live(domain, root, self._pid_file_directory)
        if live.was_lost and live.mark is not None and live.mark.leaving is not None:
            domain.attachDeviceFlags(write_device(live.mark.leaving), _LIVE)
            write_mark(domain, Mark(live.mark.run))
            LOG.warning(
                "Server %s lost its watchdog %s at a resume or reboot, because an earlier call had asked for that in vain; it has it again",
                domain.UUIDString(),
                live.mark.leaving.model,
            )

    def _tidy(self, domain: libvirt.virDomain, live: LiveWatchdog) -> None:
        """What is noted as leaving is to be what the machine has: that is what would be put back."""
        if live.mark is not None and live.mark.leaving != live.device and live.mark.leaving is not None:
            write_mark(domain, replace(live.mark, leaving=live.device))

    def _set_action(self, domain: libvirt.virDomain, live: LiveWatchdog, run: str, wanted: WatchdogDevice) -> None:
        """Past libvirt, whose definition keeps its word: noted before as being changed, and after as changed."""
        assert live.device is not None
        leaving = None if live.mark is None else live.mark.leaving
        before = _note_action(run, live.said, live.device, leaving)
        _note_first(domain, replace(before, said=live.said, changing_to=wanted.expiry_action))
        command = {"execute": "watchdog-set-action", "arguments": {"action": wanted.expiry_action}}
        try:
            answer = json.loads(
                libvirt_qemu.qemuMonitorCommand(domain, json.dumps(command), libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
            )
        except libvirt.libvirtError as error:
            if is_lost(error):
                raise
            answer = {"error": {"desc": str(error)}}
        if "error" in answer:
            write_mark(domain, before)
            raise NotChanged(f"QEMU refused another expiry action: {answer['error'].get('desc')}")
        write_mark(domain, _note_action(run, live.said, wanted, None if leaving is None else wanted))

    def _attach_first(self, domain: libvirt.virDomain, live: LiveWatchdog, run: str, wanted: WatchdogDevice) -> None:
        if live.mark is not None:  # an action noted of an earlier device must not be taken for this one's
            _note_first(domain, Mark(run, leaving=live.mark.leaving))
        try:
            domain.attachDeviceFlags(write_device(wanted), _LIVE)
        except libvirt.libvirtError as error:
            if is_lost(error):
                raise
            raise NotChanged(f"the running machine has no room for it: {error}") from error
        if live.mark is not None:
            write_mark(domain, Mark(run))

    def _detach(self, domain: libvirt.virDomain, root: Element, live: LiveWatchdog, run: str, former: WatchdogDevice) -> None:
        """Return when the platform has told that it is gone."""
        element = find_element(root)
        assert element is not None
        alias = find_alias(element) or ""
        # What was asked for once may still come to pass, also when asking for it again is refused.
        kept = _note_action(run, live.said, former, None if live.mark is None or live.mark.leaving is None else former)
        _note_first(domain, replace(kept, leaving=former))
        began = time.monotonic()
        with self._removals.expect(domain.UUIDString(), alias) as expected:
            try:
                domain.detachDeviceFlags(ElementTree.tostring(element, encoding="unicode"), _LIVE)
            except libvirt.libvirtError as error:
                if is_lost(error):
                    raise
                write_mark(domain, kept)
                raise NotChanged(f"libvirt would not take the watchdog away: {error}") from error
            is_gone = expected.wait(max(0.0, self._detach_timeout - (time.monotonic() - began)))
        # The event may have been lost with a connection; libvirt drops the device from its XML when QEMU has told the same.
        if not is_gone and find_element(read_root(domain.XMLDesc())) is not None:
            raise NotChanged(
                f"the guest has not let go of its watchdog within {time.monotonic() - began:.0f} s (it hangs, or it is still booting: "
                "ask again when it is up); should the platform take it away later, at a reboot, it is put back"
            )

    def _attach_instead(self, domain: libvirt.virDomain, run: str, former: WatchdogDevice, wanted: WatchdogDevice) -> None:
        write_mark(domain, Mark(run, leaving=former))
        try:
            domain.attachDeviceFlags(write_device(wanted), _LIVE)
        except libvirt.libvirtError as error:
            if is_lost(error):
                raise
            self._attach_again(domain, run, former, error)
            raise NotChanged(f"libvirt refused the new watchdog, and the former one is there again: {error}") from error
        write_mark(domain, Mark(run))

    def _attach_again(self, domain: libvirt.virDomain, run: str, former: WatchdogDevice, refusal: libvirt.libvirtError) -> None:
        try:
            domain.attachDeviceFlags(write_device(former), _LIVE)
        except libvirt.libvirtError as error:
            if is_lost(error):
                raise
            raise NothingLeft(f"libvirt refused the new watchdog ({refusal}) and then the former one ({error})") from error
        write_mark(domain, Mark(run))


def _note_first(domain: libvirt.virDomain, mark: Mark) -> None:
    """Note it before anything is done.

    :raises NotChanged: it cannot be noted (libvirt is busy with the domain, say), so nothing is done.
    :raises libvirt.libvirtError: libvirt was lost on the way.
    """
    try:
        write_mark(domain, mark)
    except libvirt.libvirtError as error:
        if is_lost(error):
            raise
        raise NotChanged(f"libvirt would not take a note of the change: {error}") from error


def _note_action(run: str, said: str, device: WatchdogDevice, leaving: WatchdogDevice | None) -> Mark:
    """What is to be noted of a device with this action, whose libvirt's word is ``said``."""
    differs = device.expiry_action != said
    return Mark(run, said=said if differs else "", expiry_action=device.expiry_action if differs else "", leaving=leaving)
