//! The files of a crate as a graph of which file uses which other one, and the circles in it.
//!
//! An edge is a path in a `use` or in code: `crate::…`, `super::…`, `self::…`, or one that begins with a module that the
//! file declares. A name that a module reexports (`pub use`) counts as a name of the module that defines it. Tests are left
//! out. A path from a module to one that contains it is not an edge: they are one unit in several files. A path from a
//! parent to its child is an edge, so that a child cannot depend on the users of its parent by a detour.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, UseTree,
    visit::{self, Visit},
};

/// The path of a module inside its crate; the root is empty.
type ModulePath = Vec<String>;

/// The files of one crate, and the files that each uses.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// For each file, the files that it uses, and the names that it uses of each.
    pub(crate) edges: BTreeMap<PathBuf, BTreeMap<PathBuf, BTreeSet<String>>>,
}

/// A module as parsed.
#[derive(Debug)]
struct Module {
    file: PathBuf,
    children: BTreeSet<String>,
    /// Reexported names, with the path of each.
    reexports: BTreeMap<String, ModulePath>,
    /// All paths that it uses, from the crate's root.
    paths: BTreeSet<ModulePath>,
}

/// Reads the crate with this root file (`src/lib.rs` or `src/main.rs`).
pub(crate) fn files(root: &Path) -> Files {
    let mut modules = BTreeMap::new();
    let folder = root.parent().expect("a file has a folder").to_owned();
    read(root, &folder, Vec::new(), &mut modules);
    let mut files = Files::default();
    for (at, module) in &modules {
        for path in &module.paths {
            let Some(target) = resolve(path, &modules) else { continue };
            let other = &modules[&target];
            // The modules that contain this one, and itself.
            if (0..=at.len()).any(|end| modules[&at[..end]].file == other.file) {
                continue;
            }
            let edges = files.edges.entry(module.file.clone()).or_default();
            let name = path.last().cloned().unwrap_or_default();
            edges.entry(other.file.clone()).or_default().insert(name);
        }
    }
    files
}

impl Files {
    /// Groups of two or more files that each reach all others of the group.
    pub(crate) fn circles(&self) -> Vec<BTreeSet<&Path>> {
        let reached: BTreeMap<&Path, BTreeSet<&Path>> =
            self.edges.keys().map(|file| (file.as_path(), self.reached(file))).collect();
        let mut circles = BTreeSet::new();
        for (file, others) in &reached {
            let both = |other: &&&Path| reached.get(*other).is_some_and(|back| back.contains(file));
            let circle: BTreeSet<&Path> = others.iter().filter(both).copied().collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    fn reached(&self, from: &Path) -> BTreeSet<&Path> {
        let (mut all, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(file) = next.pop() {
            for other in self.edges.get(file).into_iter().flat_map(BTreeMap::keys) {
                if all.insert(other.as_path()) {
                    next.push(other);
                }
            }
        }
        all
    }
}

/// The module that a path denotes: that of its longest prefix that is a module; or, if that reexports the next name, the
/// module that this comes from.
fn resolve(path: &[String], modules: &BTreeMap<ModulePath, Module>) -> Option<ModulePath> {
    let mut path = path.to_vec();
    // Chains of reexports are short. The limit ends a chain that is a circle.
    for _ in 0..16 {
        let end = (0..=path.len()).rev().find(|end| modules.contains_key(&path[..*end]))?;
        let module = &modules[&path[..end]];
        match path.get(end).and_then(|name| module.reexports.get(name)) {
            Some(from) => path = [from.as_slice(), &path[end + 1..]].concat(),
            None => return Some(path[..end].to_vec()),
        }
    }
    None
}

fn read(file: &Path, folder: &Path, at: ModulePath, modules: &mut BTreeMap<ModulePath, Module>) {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    take(&parsed.items, file, folder, at, modules);
}

/// Reads a module's items. `folder` has the files of its children.
fn take(
    items: &[Item],
    file: &Path,
    folder: &Path,
    at: ModulePath,
    modules: &mut BTreeMap<ModulePath, Module>,
) {
    let declared = items.iter().filter_map(|item| match item {
        Item::Mod(module) if !is_test(&module.attrs) => Some(module),
        _ => None,
    });
    let declared: Vec<&ItemMod> = declared.collect();
    let mut module = Module {
        file: file.to_owned(),
        children: declared.iter().map(|module| module.ident.to_string()).collect(),
        reexports: BTreeMap::new(),
        paths: BTreeSet::new(),
    };
    let mut names = Names { at: &at, module: &mut module };
    items.iter().filter(|item| !matches!(item, Item::Mod(_))).for_each(|i| names.visit_item(i));
    modules.insert(at.clone(), module);
    for child in declared {
        let name = child.ident.to_string();
        let (inner, below) =
            ([at.as_slice(), std::slice::from_ref(&name)].concat(), folder.join(&name));
        match &child.content {
            Some((_, items)) => take(items, file, &below, inner, modules),
            None => {
                let beside = folder.join(format!("{name}.rs"));
                let file = if beside.exists() { beside } else { below.join("mod.rs") };
                read(&file, &below, inner, modules);
            }
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let test = |tokens: &TokenStream| {
            tokens.to_string().split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
        };
        path.is_ident("test")
            || (path.is_ident("cfg")
                && attribute.meta.require_list().is_ok_and(|list| test(&list.tokens)))
    })
}

/// Collects the paths that a module uses.
struct Names<'a> {
    at: &'a [String],
    module: &'a mut Module,
}

impl Names<'_> {
    /// Adds a path if it is inside this crate, and returns it from the crate's root.
    fn path(&mut self, path: &[String]) -> Option<ModulePath> {
        let mut at: ModulePath = self.at.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (at, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            child if path.len() > 1 && self.module.children.contains(child) => {}
            _ => return None,
        }
        let absolute = [at.as_slice(), rest].concat();
        self.module.paths.insert(absolute.clone());
        Some(absolute)
    }

    fn use_tree(&mut self, tree: &UseTree, before: &[String], handed_on: bool) {
        let with = |name: &str| [before, &[name.to_owned()]].concat();
        let (path, alias) = match tree {
            UseTree::Path(path) => {
                return self.use_tree(&path.tree, &with(&path.ident.to_string()), handed_on);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.use_tree(tree, before, handed_on));
            }
            UseTree::Name(name) if name.ident == "self" => {
                (before.to_vec(), before.last().cloned().unwrap_or_default())
            }
            UseTree::Name(name) => (with(&name.ident.to_string()), name.ident.to_string()),
            UseTree::Rename(rename) => (with(&rename.ident.to_string()), rename.rename.to_string()),
            UseTree::Glob(_) => (with("*"), String::new()),
        };
        if let Some(absolute) = self.path(&path)
            && handed_on
        {
            self.module.reexports.insert(alias, absolute);
        }
    }

    /// Adds the paths in the arguments of a macro.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    self.path(&std::mem::take(&mut path));
                    colons = 0;
                    match other {
                        TokenTree::Ident(ident) => path.push(ident.to_string()),
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                    }
                }
            }
        }
        self.path(&path);
    }
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Static(item) => &item.attrs,
            _ => &[],
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let handed_on = !matches!(item.vis, syn::Visibility::Inherited);
        self.use_tree(&item.tree, &[], handed_on);
    }

    // A visibility, as `pub(in path)`, is not an import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let path: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
            self.path(&path);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}
