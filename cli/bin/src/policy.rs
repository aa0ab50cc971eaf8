//! `clustermesh policy`: judges flows by policies, before they are applied.

mod print;

use std::{
    cell::RefCell,
    fs,
    io::{self, BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context as _, bail};
use mesh_labels::LabelFilter;
use mesh_policy::Options;
use mesh_policy_rules::Policy;
use mesh_source::Format as FileFormat;
use mesh_verdict::{
    Lint, Matrix, PolicyFile, Problem, SharedJudge, World, answer_line_by, documents, entries,
    flows, judge, lint, matrix, policy_files, policy_files_of_all, read_policies, run_steps,
};
use serde_json::json;

use crate::{
    args::{EngineArg, LabelRules, LintArgs, PolicyCommand, VerdictArgs, WorldArgs, named},
    outcome::Outcome,
    output::{self, Format, Output},
};

/// Why there is no result.
enum Failure {
    /// Inputs are refused.
    Refused(Vec<Problem>),
    Other(anyhow::Error),
}

pub(crate) fn run(command: PolicyCommand, format: Option<Format>) -> anyhow::Result<Outcome> {
    let output = Output::new(format);
    let done = match command {
        PolicyCommand::Verdict(args) => verdict(&args, output),
        PolicyCommand::Lint(args) => run_lint(&args, output),
        PolicyCommand::Validate { policies, labels } => validate(&policies, &labels, output),
    };
    match done {
        Ok(()) => Ok(Outcome::Done),
        Err(Failure::Other(error)) => Err(error),
        Err(Failure::Refused(problems)) => {
            match output {
                Output::Json => output::json("Refused", json!({ "refused": problems }))?,
                Output::Text => print::refused(&problems)?,
            }
            Ok(Outcome::Refused)
        }
    }
}

fn verdict(args: &VerdictArgs, output: Output) -> Result<(), Failure> {
    let filter = filter(&args.world.labels)?;
    let engine = engine(args.engine)?;
    if let Some(file) = &args.batch {
        return Ok(batch(file, args.world.options(), &filter, engine.as_ref())?);
    }
    let mut world = world(&args.world, &filter)?;
    if let Some(engine) = engine {
        world.set_judge(engine);
    }
    for (cluster, policy) in policies(&world, &args.policies, &args.world)? {
        world.put_policy(&cluster, policy);
    }
    if args.all_pairs {
        let ports = args.ports.iter().map(|text| text.parse());
        let ports = ports.collect::<Result<Vec<_>, String>>();
        let ports = ports.map_err(|reason| Problem::new("--ports", "", reason))?;
        return Ok(pairs(&matrix(&world, &ports)?, &args.ports, output)?);
    }
    if args.flows.is_none() && args.steps.is_none() {
        let reason = "there is nothing to answer: give --flows, --steps, --all-pairs or --batch";
        return Err(Failure::Other(anyhow::anyhow!(reason)));
    }
    let (mut asked, mut answers, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(path) = &args.flows {
        for (part, flow) in flows(&path.display().to_string(), &read(path)?)? {
            match judge(&world, &flow, &part) {
                Ok(answer) => answers.push(answer),
                Err(problem) => refused.push(problem),
            }
            asked.push(flow);
        }
    }
    if !refused.is_empty() {
        return Err(refused.into());
    }
    let mut steps = Vec::new();
    if let Some(path) = &args.steps {
        let text = read(path)?;
        let name = path.display().to_string();
        let format = FileFormat::of(path).unwrap_or(FileFormat::Yaml);
        let documents = documents(format, &text).map_err(|problem| {
            Problem::new(name, &format!("line {}", problem.line), problem.reason)
        })?;
        for (_, document) in documents {
            steps.extend(run_steps(&mut world, &document)?);
        }
    }
    Ok(match output {
        Output::Json if args.steps.is_some() => output::json(
            "PolicyVerdict",
            json!({ "refused": [], "flows": answers, "steps": steps }),
        ),
        Output::Json => output::json("PolicyVerdict", json!({ "refused": [], "flows": answers })),
        Output::Text => print::verdicts(&asked, &answers).and_then(|()| print::steps(&steps)),
    }?)
}

/// Who judges in the model's place.
fn engine(engine: EngineArg) -> anyhow::Result<Option<SharedJudge>> {
    match engine {
        EngineArg::Model => Ok(None),
        EngineArg::Kernel => {
            let engine = mesh_policy_kernel::Engine::new().context("--engine kernel is skipped")?;
            Ok(Some(Rc::new(RefCell::new(engine))))
        }
    }
}

/// Answers line by line, so that a file of any length takes the memory of one line, and a program that asks one after
/// another gets each answer.
fn batch(
    file: &Path,
    options: Options,
    filter: &LabelFilter,
    judge: Option<&SharedJudge>,
) -> anyhow::Result<()> {
    let input: Box<dyn BufRead> = match file.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => {
            let file = fs::File::open(file).with_context(|| file.display().to_string())?;
            Box::new(BufReader::new(file))
        }
    };
    let mut answers = io::BufWriter::new(io::stdout().lock());
    for line in input.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if line.trim().is_empty() {
            continue;
        }
        serde_json::to_writer(&mut answers, &answer_line_by(&line, options, filter, judge))?;
        answers.write_all(b"\n")?;
        answers.flush()?;
    }
    Ok(())
}

fn pairs(matrix: &Matrix, ports: &[String], output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => {
            output::json("PolicyMatrix", json!({ "refused": [], "ports": ports, "matrix": matrix }))
        }
        Output::Text => print::matrix(matrix, ports),
    }
}

fn run_lint(args: &LintArgs, output: Output) -> Result<(), Failure> {
    let filter = filter(&args.world.labels)?;
    if args.world.endpoints.is_empty() {
        return Err(Failure::Other(anyhow::anyhow!(
            "--endpoints is missing: what policies change depends on the pods"
        )));
    }
    let (after, before) = (world(&args.world, &filter)?, world(&args.world, &filter)?);
    let new = policies(&after, std::slice::from_ref(&args.policies), &args.world)?;
    let against = args.against.as_slice();
    let old = policies(&after, against, &args.world)?;
    let found: Lint = lint(after, before, &new, &old)?;
    Ok(match output {
        Output::Json => output::json("PolicyLint", &found),
        Output::Text => print::lint(&found),
    }?)
}

fn validate(path: &Path, labels: &LabelRules, output: Output) -> Result<(), Failure> {
    let world = World::new(Options::default(), filter(labels)?);
    let mut files = policy_files_of_all(path)?;
    for file in &mut files {
        let cluster = file.cluster.take();
        file.cluster = cluster.or_else(|| Some("default".into()));
    }
    let count = read_policies(&world, &files)?.len();
    let understood = format!("{count} policies, nothing is refused");
    Ok(match output {
        Output::Json => {
            output::json("PolicyValidation", json!({ "refused": [], "policies": count }))
        }
        Output::Text => output::line(understood).map_err(anyhow::Error::from),
    }?)
}

fn filter(labels: &LabelRules) -> Result<LabelFilter, Failure> {
    let rules = labels.identity_labels.iter().map(String::as_str);
    LabelFilter::new(rules).map_err(|error| Failure::Other(error.into()))
}

/// The endpoints of all files.
fn world(args: &WorldArgs, filter: &LabelFilter) -> Result<World, Failure> {
    let mut world = World::new(args.options(), filter.clone());
    if let Some(cluster) = &args.cluster {
        world.name_cluster(cluster);
    }
    let files: Vec<(Option<&str>, &str)> = args.endpoints.iter().map(|text| named(text)).collect();
    files.iter().filter_map(|(cluster, _)| *cluster).for_each(|one| world.name_cluster(one));
    for (cluster, path) in files {
        let cluster = cluster.or(args.cluster.as_deref());
        let path = Path::new(path);
        let text = read(path)?;
        let part = path.display().to_string();
        match entries(path, &text)? {
            Some(mut list) => {
                for entry in &mut list {
                    entry.cluster = entry.cluster.take().or_else(|| cluster.map(Into::into));
                }
                world.add(&list, |index| format!("{part}[{index}]"))?;
            }
            None => {
                let cluster = world.cluster_of(cluster, &part)?;
                let format = FileFormat::of(path).unwrap_or(FileFormat::Yaml);
                world.add_objects(&cluster, format, &text, &part)?;
            }
        }
    }
    for (cluster, range) in args.service_ranges()? {
        let cluster = world.cluster_of(cluster, "--service-cidr")?;
        world.add_service_range(&cluster, range);
    }
    world.link_services();
    Ok(world)
}

fn policies(
    world: &World,
    paths: &[PathBuf],
    args: &WorldArgs,
) -> Result<Vec<(String, Policy)>, Failure> {
    let clusters: Vec<&str> = world.clusters().collect();
    let mut files: Vec<PolicyFile> = Vec::new();
    for path in paths {
        files.extend(policy_files(path, &clusters)?);
    }
    for file in &mut files {
        file.cluster = file.cluster.take().or_else(|| args.cluster.clone());
    }
    Ok(read_policies(world, &files)?)
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path.is_dir() {
        bail!("{}: it is a folder", path.display());
    }
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

// === impl Failure ===

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Refused(vec![problem])
    }
}

impl From<Vec<Problem>> for Failure {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Refused(problems)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}
