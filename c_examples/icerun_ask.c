/* icerun: ^C at a terminal, where workers use libice. They pause, all at one step, and the user is asked
 * whether they are to save a checkpoint before the run is stopped. Another ^C stops it at once.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#define _POSIX_C_SOURCE 200809L

#include "icerun.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* How long workers may take to pause, and to save where no time was given for that. */
enum { PAUSE_SECONDS = 10, SAVE_SECONDS = 300 };

struct conversation {
  ice_agent *agent;
  double save_seconds;
  pthread_t asking;
  int is_asking;
};

int asks(const struct options *options) {
  int control = option_on(options, OPT_CONTROL) || option_filled(options, OPT_HEARTBEAT_TIMEOUT) ||
                option_filled(options, OPT_CHECKPOINT_BEFORE_STOP);
  return control && isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
}

/* A thread may end here, and nowhere else: not within the library. */
static void let_cancel(int on) {
  pthread_setcancelstate(on ? PTHREAD_CANCEL_ENABLE : PTHREAD_CANCEL_DISABLE, NULL);
}

static int wants_checkpoint(void) {
  static const char *const words[] = {"", "y", "Y", "yes", "n", "N", "no"};
  char line[64];
  for (;;) {
    fputs("Should I save the checkpoint? [Y/n] ", stderr);
    let_cancel(1);
    const char *read = fgets(line, sizeof line, stdin);
    let_cancel(0);
    if (!read) return 1; /* nobody is there any more: what was computed is kept */
    line[strcspn(line, "\n")] = '\0';
    for (int i = 0; i < 7; i++) {
      if (strcmp(line, words[i]) == 0) return i < 4;
    }
  }
}

static void tell(const ice_answers *answers) {
  static const char *const kinds[] = {"has not answered in time", NULL, "could not save", "has ended"};
  if (ice_answers_complete(answers)) fputs("icerun: the checkpoint is saved\n", stderr);
  for (size_t rank = 0; rank < ice_answers_count(answers); rank++) {
    const char *kind = kinds[ice_answers_of_rank(answers, rank)];
    if (kind) fprintf(stderr, "icerun: no whole checkpoint: local rank %zu %s\n", rank, kind);
  }
}

static void *ask(void *data) {
  const struct conversation *conversation = data;
  ice_answers *answers;
  let_cancel(0);
  if (ice_agent_pause(conversation->agent, PAUSE_SECONDS, &answers) == ICE_OK) ice_answers_free(answers);
  if (wants_checkpoint() &&
      ice_agent_request_checkpoint(conversation->agent, conversation->save_seconds, &answers) == ICE_OK) {
    tell(answers);
    ice_answers_free(answers);
  }
  ice_agent_stop(conversation->agent, SIGINT);
  return NULL;
}

static void *hear_interrupts(void *data) {
  struct conversation *conversation = data;
  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  int signal, error;
  do {
    let_cancel(1);
    error = sigwait(&interrupt, &signal);
    let_cancel(0);
    if (!conversation->is_asking && pthread_create(&conversation->asking, NULL, ask, data) == 0) {
      conversation->is_asking = 1;
    } else {
      ice_agent_stop(conversation->agent, SIGINT);
    }
  } while (error == 0);
  return NULL;
}

ice_status run_and_ask(const struct options *options, ice_agent *agent, ice_result **result) {
  struct conversation conversation = {.agent = agent, .save_seconds = SAVE_SECONDS};
  if (option_filled(options, OPT_CHECKPOINT_BEFORE_STOP)) {
    conversation.save_seconds = option_number(options, OPT_CHECKPOINT_BEFORE_STOP);
  }
  pthread_t hearing;
  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  pthread_sigmask(SIG_BLOCK, &interrupt, NULL);
  int error = pthread_create(&hearing, NULL, hear_interrupts, &conversation);
  ice_status status = ice_agent_start(agent);
  if (status == ICE_OK) status = ice_agent_wait(agent, -1, result);
  if (error == 0) {
    pthread_cancel(hearing);
    pthread_join(hearing, NULL);
    if (conversation.is_asking) {
      pthread_cancel(conversation.asking);
      pthread_join(conversation.asking, NULL);
    }
  }
  return status;
}
