"""Processes that work together as those of ``torchrun``, forked off the tests: to import everything anew takes long."""

import multiprocessing
import os
import traceback

from torch.distributed import TCPStore

from vispco import parallel

forked = multiprocessing.get_context("fork")


def together(function, number=2, join=True):
    """What ``function(rank)`` returns in each of several processes, by rank."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # it outlives the processes
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "WORLD_SIZE": number}
    place["TORCHELASTIC_USE_AGENT_STORE"] = True

    def work(rank, pipe):
        own = {**place, "RANK": rank, "LOCAL_RANK": rank}
        os.environ.update({name: str(value) for name, value in own.items()})
        try:
            if join:
                with parallel.joined():
                    pipe.send((True, function(rank)))
            else:
                pipe.send((True, function(rank)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))

    pipes = [forked.Pipe() for _ in range(number)]
    processes = [forked.Process(target=work, args=(rank, pipe)) for rank, (_, pipe) in enumerate(pipes)]
    for process in processes:
        process.start()
    answers = [pipe.recv() if pipe.poll(120) else (False, "no answer") for pipe, _ in pipes]
    for process in processes:
        process.join(10)
        process.kill()
    for good, answer in answers:
        assert good, answer
    return [answer for _, answer in answers]
